/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Read metadata without trusting it.
 *
 * The persistent-data library checks each block by itself (checksum, address,
 * number of entries), and trusts the references between them.  A cycle in a
 * tree makes it loop forever; a space map of more blocks than its index has
 * room for makes it read beyond that index; a live block that the space map
 * says is free gets overwritten.  No crash leaves such metadata, but a disk may
 * hold it.  So the whole structure is walked once, before the library gets to
 * see it, and the bitset is loaded on the way.
 */
#ifndef DM_CLONE_METADATA_CHECK_H
#define DM_CLONE_METADATA_CHECK_H

#include <linux/types.h>

#include "persistent-data/dm-block-manager.h"

/* Called for each word of the bitset, in order. */
typedef void (*dm_clone_word_fn)(void *context, u32 index, u64 word);

/*
 * Check all that the superblock of a clone points at.
 *
 * @bm: a block manager through which only the superblock has been read since it
 *	was created or reset
 * @nr_dev_blocks: size of the metadata device, in metadata blocks
 * @sm_root: the root of the metadata space map, as in the superblock
 * @bitset_root: the root block of the bitset
 * @nr_words: the number of 64-bit words that the bitset must have
 * @nr_leaked: set to the number of blocks with more references in the space map
 *	than in fact: they are lost, and do no other harm
 *
 * Sleeps, and writes nothing.  Returns 0, -ENOMEM, -EIO if a block cannot be
 * read, or -EUCLEAN if one is not what it should be, with the reason in the
 * kernel log.  On failure @fn may have been called for some of the words.
 */
int dm_clone_metadata_check(struct dm_block_manager *bm, u64 nr_dev_blocks,
			    const void *sm_root, u64 bitset_root, u32 nr_words,
			    dm_clone_word_fn fn, void *context, u64 *nr_leaked);

#endif /* DM_CLONE_METADATA_CHECK_H */
