package main

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A line of the log holds no more of a value than logValue bytes, of a stack no more than logStack:
// what peers send can't fill the disk a megabyte at a time (attack K64).
const (
	logValue = 256
	logStack = 16 << 10
)

// newLog logs as c says, an event a line. Both formats quote what is not printable.
func newLog(c *config, w io.Writer) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Log.Level))
	json := c.Log.Format == "json"
	opt := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return a
		}
		var text string
		switch a.Value.Kind() {
		case slog.KindString:
			text = a.Value.String()
		case slog.KindAny:
			switch v := a.Value.Any().(type) {
			case []byte:
				text = string(v)
			case nil:
				return a
			default:
				text = fmt.Sprint(v)
			}
		default:
			return a
		}
		most := logValue
		if a.Key == "stack" {
			most = logStack
		}
		text = truncate(text, most)
		if json {
			text = escapeUnprintable(text)
		}
		return slog.String(a.Key, text)
	}}
	if json {
		return slog.New(limitLines(slog.NewJSONHandler(w, opt)))
	}
	return slog.New(limitLines(slog.NewTextHandler(w, opt)))
}

// truncate is text without what is behind its first so many bytes, at the end of a character.
func truncate(text string, most int) string {
	if len(text) <= most {
		return text
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + fmt.Sprintf("... (%d bytes)", len(text))
}

// escapeUnprintable writes what a terminal could take for more than text as JSON would, had it to: it quotes
// only the first 32 characters and what ends a line.
func escapeUnprintable(text string) string {
	odd := func(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) && r != utf8.RuneError }
	if strings.IndexFunc(text, odd) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if odd(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
