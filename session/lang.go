package session

import (
	"errors"
	"strings"

	"golang.org/x/text/language"
)

// wellFormedLang reports whether tag has the syntax of a language tag (BCP 47, RFC 5646 §2.2.9); its subtags
// need not be registered.
func wellFormedLang(tag string) bool {
	if len(tag) > 64 || strings.ContainsRune(tag, '_') {
		return false
	}
	_, err := language.Raw.Parse(tag)
	var unknown language.ValueError
	return err == nil || errors.As(err, &unknown)
}
