/* expat, with namespaces: names reach the callbacks as namespace, separator, local name. */
#include "harness.h"
#include <expat.h>

static const char *version(void)
{
	return XML_ExpatVersion();
}

static void XMLCALL on_start(void *c, const XML_Char *name, const XML_Char **atts)
{
	(void)name, (void)atts;
	((struct count *)c)->starts++;
}

static void XMLCALL on_end(void *c, const XML_Char *name)
{
	(void)name;
	((struct count *)c)->ends++;
}

static void XMLCALL on_text(void *c, const XML_Char *s, int n)
{
	(void)s, (void)n;
	((struct count *)c)->texts++;
}

static void feed(void *stream, const char *b, int n)
{
	if (XML_Parse(stream, b, n, 0) != XML_STATUS_OK)
		die(XML_ErrorString(XML_GetErrorCode(stream)));
}

static void *open_stream(struct count *c, const char *header, int n)
{
	XML_Parser p = XML_ParserCreateNS(NULL, '\n');

	if (p == NULL)
		die("no memory");
	XML_SetUserData(p, c);
	XML_SetElementHandler(p, on_start, on_end);
	XML_SetCharacterDataHandler(p, on_text);
	feed(p, header, n);
	return p;
}
