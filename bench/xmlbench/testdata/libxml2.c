/* libxml2's push parser with SAX2 callbacks, which are those with namespaces. No tree is built. */
#include "harness.h"
#include <libxml/parser.h>
#include <libxml/xmlversion.h>

static const char *version(void)
{
	return "libxml2 " LIBXML_DOTTED_VERSION;
}

static void on_start(void *c, const xmlChar *local, const xmlChar *prefix, const xmlChar *uri,
                     int nns, const xmlChar **ns, int natts, int ndefaults, const xmlChar **atts)
{
	(void)local, (void)prefix, (void)uri, (void)nns, (void)ns, (void)natts, (void)ndefaults, (void)atts;
	((struct count *)c)->starts++;
}

static void on_end(void *c, const xmlChar *local, const xmlChar *prefix, const xmlChar *uri)
{
	(void)local, (void)prefix, (void)uri;
	((struct count *)c)->ends++;
}

static void on_text(void *c, const xmlChar *s, int n)
{
	(void)s, (void)n;
	((struct count *)c)->texts++;
}

static void feed(void *stream, const char *b, int n)
{
	if (xmlParseChunk(stream, b, n, 0) != 0)
		die("libxml2 refuses a document");
}

static void *open_stream(struct count *c, const char *header, int n)
{
	xmlSAXHandler sax;
	xmlParserCtxtPtr p;

	memset(&sax, 0, sizeof sax);
	sax.initialized = XML_SAX2_MAGIC;
	sax.startElementNs = on_start;
	sax.endElementNs = on_end;
	sax.characters = sax.ignorableWhitespace = sax.cdataBlock = on_text;
	p = xmlCreatePushParserCtxt(&sax, c, NULL, 0, NULL);
	if (p == NULL)
		die("no memory");
	/* A stream has no end: without this option libxml2 stops at its limit for one document. */
	xmlCtxtUseOptions(p, XML_PARSE_HUGE);
	feed(p, header, n);
	return p;
}
