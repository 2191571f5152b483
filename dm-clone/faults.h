/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Faults that a build can be given on purpose.
 *
 * The crash replay (tests/crash) shows that nothing is lost.  What shows that
 * it would notice?  A module with a fault compiled in, by -DDM_CLONE_FAULT_...:
 *
 *	NO_DEST_FLUSH	a commit doesn't flush the destination
 *	MARK_FIRST	a write marks its regions when it starts
 *	HALF_WAY	a write to a part of a region marks it when it ends itself,
 *			be the rest copied or not
 *	FLUSH_FORGETS	a flush doesn't commit
 *	FUA_FORGETS	a FUA write doesn't wait for the commit of its regions
 *	IMPLIED_FLUSH	FUA is passed down, where it may imply a flush that fails
 *	HALTS		none of these: see dm_clone_halt()
 *
 * No other build has any of them, and none can be asked for at run time.
 */
#ifndef DM_CLONE_FAULTS_H
#define DM_CLONE_FAULTS_H

#include <linux/delay.h>
#include <linux/kconfig.h>

#define dm_clone_fault(name) __is_defined(DM_CLONE_FAULT_##name)

/*
 * Places where a build with HALTS stands still for as long as a test likes, so
 * that what meets it there is no matter of luck.  The module has two parameters
 * then: "halt", the place where to stand still, and "halted", the place where
 * somebody does; 0: none.
 */
enum dm_clone_halt {
	DM_CLONE_HALT_NOWHERE,
	DM_CLONE_HALT_READER,		/* about to claim what it was told of */
	DM_CLONE_HALT_READER_CLAIMED,	/* not knowing yet what it has claimed */
	DM_CLONE_HALT_BATCH,		/* accounted for, unknown to the copier */
	DM_CLONE_HALT_RETRY,		/* the same, of a region of a batch */
	DM_CLONE_HALT_MARKED,		/* about to clear marks of what is claimed */
};

extern unsigned int dm_clone_halt_param;
extern unsigned int dm_clone_halted_param;

static inline void dm_clone_halt(enum dm_clone_halt place)
{
	if (!dm_clone_fault(HALTS) || READ_ONCE(dm_clone_halt_param) != place)
		return;

	WRITE_ONCE(dm_clone_halted_param, place);
	while (READ_ONCE(dm_clone_halt_param) == place)
		msleep(20);
	WRITE_ONCE(dm_clone_halted_param, DM_CLONE_HALT_NOWHERE);
}

#endif /* DM_CLONE_FAULTS_H */
