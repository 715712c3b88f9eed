package session

// This file has how an entity that is no account begins and ends: it is created by a stanza, stored,
// deleted, and ended when its service host is removed.

// Create makes an entity of kind k at the address of ev, where there is none. It is in memory only, until
// [Entity.Stored] is called. ev goes on through the chain of the new entity. Only in a hook of [Hooks.Make];
// elsewhere it panics.
func (ev *Stanza) Create(k KindID) *Entity {
	e := ev.entity
	if e == nil || e.exists() {
		panic("session: Create where there is something, or outside of Hooks.Make")
	}
	e.become(ev.loopRouter, k)
	return e
}

// become makes e an entity of kind k of which nothing is stored. If [EntityHandler.New] panics there is
// no entity. Under the lock of e.
func (e *Entity) become(l *LoopRouter, k KindID) {
	e.resident = &residentSet{profile: e.host.Profile(), exists: true}
	e.kind, e.id = k, 0
	made := false
	defer func() {
		if !made { // New has panicked
			e.makeAbsent()
		}
	}()
	e.ensureLiveState(l)
	made = true
	l.router.Table.NoteCreated(e.addr)
}

// ensureLiveState makes the live state of e by [EntityHandler.New], if it has none. Under the lock of e.
func (e *Entity) ensureLiveState(l *LoopRouter) {
	b := e.handler()
	if e.live != nil || e.kind == KindAccount || b == nil || b.New == nil {
		return
	}
	v, made := e.liveState(), false
	defer func() {
		if !made { // New has panicked: the next stanza for e tries again
			e.live = nil
		}
	}()
	v.value = b.New(l, e)
	made = true
}

// Stored notifies the kernel that e, which [Stanza.Create] has made, is written to the store: t is the
// ticket of the batch with its row in the directory, id the id in it. If t fails, later commits of e fail
// as well, e is read again, and there is no entity at its address. undo is then called on the loop of l,
// under no lock, to erase rows that later batches have written under id; it may be nil. Under the lock of
// e, on the loop of l.
func (e *Entity) Stored(l *LoopRouter, id uint64, t Ticket, undo func()) {
	e.id = id
	e.liveState().creationTicket = t
	e.MarkUncommitted(l, t)
	l.commitWaiters.await(t, func(err error) {
		switch {
		case err == nil:
			e.lock(l)
			if creationTicketOf(e) == t {
				e.liveState().creationTicket = 0 // later commits do not depend on t any more
			}
			e.unlock(l)
		case undo != nil:
			undo()
		}
	})
}

// Delete ends e: there is no entity at its address from now on. t is the ticket of the batch that takes
// its row out of the directory. Once t is durable erased is called on the loop of l, under no lock, to
// erase the other rows of e; it may be nil. If t fails e is read again. Under the lock of e, on the loop
// of l.
func (e *Entity) Delete(l *LoopRouter, t Ticket, erased func()) {
	e.callEnded(l)
	e.makeAbsent()
	e.ticket = max(e.ticket, t)
	e.pins++
	l.commitWaiters.await(t, func(err error) {
		e.lock(l)
		e.pins--
		if err != nil && e.resident != evictedMark && e.kind == 0 {
			e.resident = nil // the entity still exists: it is read again
		}
		e.unlock(l)
		if err == nil && erased != nil {
			erased()
		}
	})
}

// callEnded calls [EntityHandler.Ended]. A panic there is counted, and e ends all the same.
func (e *Entity) callEnded(l *LoopRouter) {
	if b := e.handler(); b != nil && b.Ended != nil {
		defer l.recoverLocked(e)
		b.Ended(l, e)
	}
}

// makeAbsent makes e the place of an address without an entity. Under the lock of e.
func (e *Entity) makeAbsent() {
	e.resident = &e.host.Profile().absentSet
	e.live, e.kind, e.id = nil, 0, 0
	if e.pending != nil {
		e.pending.timerAt = 0 // the timer of the entity that has ended
		orphanAsks(e)
		e.releasePending()
	}
}

// EndEntities ends the entities in memory of h, a service host that was removed from the [Table]. It calls
// [EntityHandler.Ended] for each, which may notify the occupants of a room. Stanzas that wait for an entity
// are answered as for a domain that this server does not have. Stored rows stay. The modules of h are not
// unloaded before it is done. Each loop ends the entities of a shard a turn. Any goroutine.
func (r *Router) EndEntities(h *Host) {
	for i, l := range r.loopRouters {
		p := h.Profile()
		p.pendingWork.Add(1)
		if !l.Loop.Post(func() { endShard(l, h, p, i) }) {
			p.pendingWork.Add(-1)
		}
	}
}

// endShard ends the entities of h in one shard, and goes on with the next shard of this loop in another
// turn. It stops if h is served again. On the loop of l.
func endShard(l *LoopRouter, h *Host, p *Profile, shard int) {
	if now, ok := l.router.Table.Host(h.Name); ok && now == h {
		p.pendingWork.Add(-1) // h is served again, with its entities
		return
	}
	l.Enter(func() {
		for _, e := range l.router.Table.Entities(shard, nil) {
			if e.host == h && e.account() == nil {
				e.lock(l)
				endEntity(l, e)
				e.unlock(l)
			}
		}
	})
	next := shard + len(l.router.loopRouters)
	if next >= shards || !l.Loop.Post(func() { endShard(l, h, p, next) }) {
		p.pendingWork.Add(-1)
	}
}

// endEntity ends e, whose host was removed, and takes it out of the table. Under the lock of e.
func endEntity(l *LoopRouter, e *Entity) {
	if e.resident == evictedMark {
		return
	}
	if e.live != nil {
		e.callEnded(l)
	}
	e.live = nil
	l.router.Table.remove(e, false, 0)
}
