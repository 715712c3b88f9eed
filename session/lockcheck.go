//go:build !invariants

package session

// Built with -tags invariants, lockcheck_on.go checks the order of locks.

func lockCheck(*Entity)   {}
func unlockCheck(*Entity) {}
func outboxCheck()        {}
func outboxUncheck()      {}
