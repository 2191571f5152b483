/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What all of the program needs.
 */
#ifndef DMCLONE_BASE_H
#define DMCLONE_BASE_H

#include <limits.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Type and UUID of something, a serial number, a hash */
#define IDENTITY_TEXT	256

#define SECTOR		512u
#define KIB		UINT64_C(1024)
#define MIB		(1024 * KIB)

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

/* For printf(): uint64_t is not the same type everywhere. */
#define ULL(number)	((unsigned long long)(number))

#endif
