//go:build !invariants

package session

// The functions of this file do nothing. Built with -tags invariants, lockcheck_on.go has them, and
// checks the order of locks.

// Checked says whether this build checks the order of locks. Checking allocates.
const Checked = false

func lockCheck()     {}
func unlockCheck()   {}
func outboxCheck()   {}
func outboxUncheck() {}
