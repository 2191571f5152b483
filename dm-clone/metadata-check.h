/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Reading metadata that nobody vouches for.
 *
 * The persistent-data library checks each block it reads by itself (checksum,
 * address, number of entries), and takes on trust how the blocks refer to each
 * other.  A cycle in a tree makes it loop for ever, a space map of more blocks
 * than its index has room for makes it read beyond that index, and a live
 * block that the space map holds for free gets overwritten.  None of this
 * comes from an honest crash, but all of it can be on a disk.  So the whole
 * structure is walked once, before the library gets to see it; the words of
 * the bitset are handed out on the way, which loads them.
 */
#ifndef DM_CLONE_METADATA_CHECK_H
#define DM_CLONE_METADATA_CHECK_H

#include <linux/types.h>

#include "persistent-data/dm-block-manager.h"

/* Gets word @index of the bitset, in the order of the index. */
typedef void (*dm_clone_word_fn)(void *context, u32 index, u64 word);

/*
 * Check all that the superblock of a clone points at.
 *
 * @bm: a block manager that no block but the superblock was read through since
 *	it was created or reset
 * @nr_dev_blocks: size of the metadata device, in metadata blocks
 * @sm_root: the root of the metadata space map, as in the superblock
 * @bitset_root: the root block of the bitset
 * @nr_words: the number of 64-bit words that the bitset must have
 * @nr_leaked: is set to the number of blocks that the space map counts more
 *	references to than there are: they are lost, that's all
 *
 * Sleeps, and writes nothing.  Returns 0, -ENOMEM, -EIO if a block cannot be
 * read, or -EUCLEAN if one isn't what it should be, with the reason in the
 * kernel log; in these cases @fn may have been called for some of the words.
 */
int dm_clone_metadata_check(struct dm_block_manager *bm, u64 nr_dev_blocks,
			    const void *sm_root, u64 bitset_root, u32 nr_words,
			    dm_clone_word_fn fn, void *context, u64 *nr_leaked);

#endif /* DM_CLONE_METADATA_CHECK_H */
