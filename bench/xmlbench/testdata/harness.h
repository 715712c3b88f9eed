/*
 * What the harnesses have in common. Each holds one open stream for every document, as a server would: the stream
 * header is parsed once, when the document is loaded, and a run feeds the document to the same parser again and again.
 *
 * Commands come on stdin, one line each, and each gets one line on stdout.
 *
 *   header N    N bytes of stream header follow         ok
 *   load N      N bytes of the next document follow     ok
 *   run I W K   feed document I, W times and K times    NS STARTS ENDS TEXTS
 *
 * NS is the time of the K feeds; the W before them are to warm up. STARTS, ENDS and TEXTS are the calls of each kind since the document was loaded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct count {
	unsigned long long starts, ends, texts;
};

/* A harness has these three. open_stream parses the header; both feed functions end the program on an error. */
static const char *version(void);
static void *open_stream(struct count *c, const char *header, int n);
static void feed(void *stream, const char *b, int n);

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static char *take(int n)
{
	char *b = malloc(n + 1);

	if (b == NULL || fread(b, 1, n, stdin) != (size_t)n)
		die("input ends early");
	return b;
}

int main(void)
{
	static struct doc {
		char *b;
		int n;
		void *stream;
		struct count count;
	} docs[256];
	char line[100], *header = NULL;
	int used = 0, nheader = 0, n, i;
	long w, k, j;
	struct timespec from, to;

	printf("%s\n", version());
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "header %d", &n) == 1) {
			header = take(n);
			nheader = n;
			printf("ok\n");
		} else if (sscanf(line, "load %d", &n) == 1 && header != NULL && used < 256) {
			struct doc *d = &docs[used++];
			d->b = take(n);
			d->n = n;
			d->stream = open_stream(&d->count, header, nheader);
			memset(&d->count, 0, sizeof d->count);
			printf("ok\n");
		} else if (sscanf(line, "run %d %ld %ld", &i, &w, &k) == 3 && i >= 0 && i < used) {
			struct doc *d = &docs[i];
			for (j = 0; j < w; j++)
				feed(d->stream, d->b, d->n);
			clock_gettime(CLOCK_MONOTONIC, &from);
			for (j = 0; j < k; j++)
				feed(d->stream, d->b, d->n);
			clock_gettime(CLOCK_MONOTONIC, &to);
			printf("%lld %llu %llu %llu\n",
			       (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec,
			       d->count.starts, d->count.ends, d->count.texts);
		} else {
			die("bad command");
		}
		fflush(stdout);
	}
	return 0;
}
