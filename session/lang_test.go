package session

import "testing"

// RFC 5646, appendix A and section 2.1.
func TestWellFormedLang(t *testing.T) {
	for tag, want := range map[string]bool{
		"en": true, "de-CH-1996": true, "zh-Hant-HK": true, "x-whatever": true, "i-klingon": true,
		"sr-Latn-RS": true,
		"es-419":     true, "en-a-bbb-x-a-ccc": true, "qq-Qqqq-QQ": true,
		"": false, "en_US": false, "a": false, "en US": false, "123456789": false, "en--US": false, "'><x": false,
		"en-": false, "abcdefghij": false, "a-DE": false, "de-419-DE": false,
	} {
		if got := wellFormedLang(tag); got != want {
			t.Errorf("%q is well-formed: %v", tag, got)
		}
	}
}
