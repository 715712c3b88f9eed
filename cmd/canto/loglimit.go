package main

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Of one message, the log has at most logBurst lines in logWindow; then one line says how many were left
// out. So neither a failure that repeats nor a peer that causes a line with each connection can fill the
// disk or hide the other lines (attack K64).
const (
	logBurst    = 20
	logWindow   = 10 * time.Second
	logMessages = 256 // messages with a count of their own; all others share one, which bounds the table
)

// A limitedHandler is a slog.Handler that limits the lines of each message. Any goroutine.
type limitedHandler struct {
	slog.Handler
	counts *lineCounts // shared with the handlers that WithAttrs and WithGroup return
}

// lineCounts are the counts of the messages whose window is open.
type lineCounts struct {
	mu    sync.Mutex             // guards byKey and the counts in it
	byKey map[lineKey]*lineCount // at most logMessages, and one of each level for all others
}

// A lineKey identifies lines that are counted together.
type lineKey struct {
	level   slog.Level
	message string
}

// A lineCount counts the lines of a window.
type lineCount struct {
	written, suppressed int
}

// limitLines returns h with limits.
func limitLines(h slog.Handler) slog.Handler {
	return &limitedHandler{h, &lineCounts{byKey: make(map[lineKey]*lineCount)}}
}

// Handle passes r to the handler below, or only counts it.
func (h *limitedHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.take(lineKey{r.Level, r.Message}) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// take counts a line and reports whether it may be written. The first line with a key opens a
// window of logWindow.
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

// endWindow ends the window of k, and logs how many lines were left out, if there were any. It runs
// on the goroutine of a timer.
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

// WithAttrs implements slog.Handler.
func (h *limitedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limitedHandler{h.Handler.WithAttrs(attrs), h.counts}
}

// WithGroup implements slog.Handler.
func (h *limitedHandler) WithGroup(name string) slog.Handler {
	return &limitedHandler{h.Handler.WithGroup(name), h.counts}
}
