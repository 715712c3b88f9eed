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

// logValue and logStack bound a value, and the stack of a panic, in a line of the log, in bytes.
// Values contain what peers send, and must not fill the disk a megabyte at a time (attack K64).
const (
	logValue = 256
	logStack = 16 << 10
)

// newLog returns the logger that the configuration asks for, with one line for each event. Long
// values are truncated. Both formats quote characters that are not printable, so that a peer can't
// write lines of its own or control a terminal.
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

// truncate returns the first most bytes of text, cut at the beginning of a character, with the
// whole length after them; text itself if it is not longer.
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

// escapeUnprintable escapes characters that a terminal could take for commands. The JSON handler
// escapes only the first 32 characters and those that end a line.
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
