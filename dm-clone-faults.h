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
 *
 * No other build has any of them, and none can be asked for at run time.
 */
#ifndef DM_CLONE_FAULTS_H
#define DM_CLONE_FAULTS_H

#include <linux/kconfig.h>

#define dm_clone_fault(name) __is_defined(DM_CLONE_FAULT_##name)

#endif /* DM_CLONE_FAULTS_H */
