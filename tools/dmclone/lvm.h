/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Clones that become logical volumes.
 */
#ifndef DMCLONE_LVM_H
#define DMCLONE_LVM_H

#include "conf.h"
#include "report.h"

/*
 * "VG/LV" as device mapper has it, which is the name of the clone too: the clone's
 * mapped device becomes the logical volume's.
 */
enum result lvm_mapped_name(const char *lv, char name[NAME_LENGTH]);

/* Destination and metadata, which do not come up by themselves; and down again. */
enum result lvm_activate(const struct conf *conf);
void lvm_deactivate(const struct conf *conf);

/*
 * The end of a clone whose description says "done": /dev/VG/LV is a logical volume as
 * others are, on the mapped device that is there, if there is one.  What an earlier
 * run has done is found done.
 */
enum result lvm_end(const struct conf *conf);

/* Remove both volumes, which are worth nothing. */
enum result lvm_remove(const struct conf *conf);

#endif
