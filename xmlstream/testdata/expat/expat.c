/* The reference for verdict and events: expat with namespaces, as a child process. See ../../expat_test.go.
 *
 * Request:  u32 length, u8 final, the bytes. A document begins with each request.
 * Response: u32 error code (0: none), u32 byte offset of the error, u32 length, the events:
 *   'S' string name, u32 count, count times (string name, string value); 'E'; 'T' string.
 * Numbers are little-endian, a string is its u32 length and its bytes. In names, 0xFF, which no UTF-8 holds, parts
 * namespace and local name. */
#include <expat.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *out;
static size_t len, cap;

static void put(const void *p, size_t n) {
	if (len + n > cap) {
		cap = 2 * (len + n) + 4096;
		if (!(out = realloc(out, cap)))
			exit(1);
	}
	memcpy(out + len, p, n);
	len += n;
}

static void num(uint32_t v) {
	unsigned char b[4] = {v, v >> 8, v >> 16, v >> 24};
	put(b, 4);
}

static void str(const char *s, size_t n) {
	num(n);
	put(s, n);
}

static void XMLCALL start(void *u, const XML_Char *name, const XML_Char **atts) {
	uint32_t n = 0;
	(void)u;
	put("S", 1);
	str(name, strlen(name));
	while (atts[2 * n])
		n++;
	num(n);
	for (n = 0; atts[n]; n++)
		str(atts[n], strlen(atts[n]));
}

static void XMLCALL end(void *u, const XML_Char *name) {
	(void)u;
	(void)name;
	put("E", 1);
}

static void XMLCALL text(void *u, const XML_Char *s, int n) {
	(void)u;
	put("T", 1);
	str(s, n);
}

int main(void) {
	XML_Parser p = XML_ParserCreateNS(NULL, (XML_Char)0xFF);
	unsigned char h[5], *in = NULL;
	if (!p)
		return 1;
	while (fread(h, 1, 5, stdin) == 5) {
		uint32_t n = h[0] | h[1] << 8 | h[2] << 16 | (uint32_t)h[3] << 24;
		uint32_t code = 0, at = 0;
		unsigned char head[12];
		if (!(in = realloc(in, n + 1)) || fread(in, 1, n, stdin) != n)
			return 1;
		XML_ParserReset(p, NULL);
		XML_SetElementHandler(p, start, end);
		XML_SetCharacterDataHandler(p, text);
		len = 0;
		if (XML_Parse(p, (char *)in, n, h[4]) != XML_STATUS_OK) {
			code = XML_GetErrorCode(p);
			at = XML_GetCurrentByteIndex(p);
		}
		for (int i = 0; i < 4; i++) {
			head[i] = code >> 8 * i;
			head[4 + i] = at >> 8 * i;
			head[8 + i] = (uint32_t)len >> 8 * i;
		}
		if (fwrite(head, 1, 12, stdout) != 12 || fwrite(out, 1, len, stdout) != len || fflush(stdout))
			return 1;
	}
	return 0;
}
