package main

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Of one message, the log has at most logBurst lines in logWindow; then one line says how many were left
// out. What fails again and again, or what a peer can have logged with each connection, neither fills the
// disk nor hides the rest (attack K64).
const (
	logBurst    = 20
	logWindow   = 10 * time.Second
	logMessages = 256 // messages counted apart; more share one count, so that the table is bounded
)

// limitedHandler is a slog.Handler that writes at most so many lines of each message. Any goroutine.
type limitedHandler struct {
	slog.Handler
	counts *lineCounts // shared with what WithAttrs and WithGroup return
}

// lineCounts are the lines of each message in its present window.
type lineCounts struct {
	mu    sync.Mutex
	byKey map[lineKey]*lineCount
}

type lineKey struct {
	level   slog.Level
	message string
}

type lineCount struct {
	written, suppressed int
}

func limitLines(h slog.Handler) slog.Handler {
	return &limitedHandler{h, &lineCounts{byKey: make(map[lineKey]*lineCount)}}
}

// Handle writes r, or counts it.
func (h *limitedHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.take(lineKey{r.Level, r.Message}) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// take reports whether one more line of this kind is written. The first line of a kind opens a window,
// which ends by itself.
func (h *limitedHandler) take(k lineKey) bool {
	c := h.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byKey[k]
	if n == nil {
		if len(c.byKey) >= logMessages {
			k.message = "others"
			n = c.byKey[k]
		}
		if n == nil {
			n = new(lineCount)
			c.byKey[k] = n
			time.AfterFunc(logWindow, func() { h.endWindow(k) })
		}
	}
	if n.written >= logBurst {
		n.suppressed++
		return false
	}
	n.written++
	return true
}

// endWindow says how many lines were left out, if any were, and has the next line begin anew.
func (h *limitedHandler) endWindow(k lineKey) {
	c := h.counts
	c.mu.Lock()
	left := c.byKey[k].suppressed
	delete(c.byKey, k)
	c.mu.Unlock()
	if left == 0 {
		return
	}
	r := slog.NewRecord(time.Now(), k.level, "lines were left out of the log", 0)
	r.AddAttrs(slog.String("message", k.message), slog.Int("lines", left), slog.Duration("within", logWindow))
	h.Handler.Handle(context.Background(), r)
}

// WithAttrs is of slog.Handler.
func (h *limitedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limitedHandler{h.Handler.WithAttrs(attrs), h.counts}
}

// WithGroup is of slog.Handler.
func (h *limitedHandler) WithGroup(name string) slog.Handler {
	return &limitedHandler{h.Handler.WithGroup(name), h.counts}
}
