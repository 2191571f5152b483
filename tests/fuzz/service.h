/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether a clone serves as it must: see service.c.
 */
#ifndef FUZZ_SERVICE_H
#define FUZZ_SERVICE_H

#include "bench.h"

struct service {
	struct bench *bench;
	struct rng *rng;
	struct text *report;		/* what went wrong */
	const struct survey *survey;	/* of the image that was accepted */
	bool went_bad;			/* left rw mode: it may not do all it should */
	bool sabotaged;			/* somebody else has changed the metadata */
};

/*
 * The table is loaded. Go through a life with it, and through a second one;
 * the device is idle again in the end. False: something is wrong.
 */
bool serve(struct service *s, bool thorough);

/*
 * The same, but @sabotage changes the metadata while the clone is active. The
 * data must still be right as long as the clone lives.
 */
bool serve_sabotaged(struct service *s, void (*sabotage)(void *context), void *context);

#endif
