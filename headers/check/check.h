/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The files here are compiled to be thrown away: on the way the kernel's build
 * computes the checksums of the functions that they name, which
 * scripts/private-headers compares with the kernel's own.  A type that is
 * opaque to us is not so where the library exports what takes it, and is declared
 * here; the headers included are those that are included there, since which
 * types are opaque depends on them.
 *
 * What is opaque may change without any harm to us.  Then the comparison
 * fails as well, and somebody has to look and add a variant.
 */
#ifndef DM_CLONE_CHECK_H
#define DM_CLONE_CHECK_H

#include <linux/export.h>

#define CHECK_SYMBOL	EXPORT_SYMBOL_GPL

#endif /* DM_CLONE_CHECK_H */
