package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A message that is logged again and again has logBurst lines in a window, and then one line that counts the
// lines left out (attack K64).
func TestLogLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(syncBuffer) // the window's end writes from a timer
		log := newLog(defaults(), b)
		for i := range 1000 {
			log.With("n", i).Error("an account could not be read", "err", fmt.Sprint("cause ", i))
		}
		log.Info("reloaded")
		count := func(s string) int { return strings.Count(b.String(), s) }
		if n := count("an account could not be read"); n != logBurst || count("msg=reloaded") != 1 {
			t.Errorf("%d lines:\n%.1000s", n, b)
		}
		time.Sleep(logWindow + time.Millisecond)
		synctest.Wait()
		if count("lines were left out of the log") != 1 || count(fmt.Sprint("lines=", 1000-logBurst)) != 1 {
			t.Errorf("nothing says that lines are missing:\n%.3000s", b)
		}
		log.Error("an account could not be read")
		if n := count("an account could not be read"); n != logBurst+2 { // one of them names the message
			t.Errorf("%d lines after the window", n)
		}
		for i := range 10_000 { // other messages than these, however many, do not grow the table
			log.Info(fmt.Sprint("message ", i))
		}
		if n := count("msg=\"message "); n > logMessages+logBurst {
			t.Errorf("%d lines of 10,000 messages", n)
		}
		time.Sleep(logWindow + time.Millisecond)
	})
}
