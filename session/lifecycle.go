package session

// Create makes an entity of kind k at the address of the Stanza, where there is nothing: in memory, until
// [Entity.Stored] says that it has an id in the store. In a hook of [Hooks.Make]; the stanza goes on
// through the new entity's chain.
func (ev *Stanza) Create(k KindID) *Entity {
	e := ev.entity
	if e == nil || e.exists() {
		panic("session: Create where there is something, or outside of Hooks.Make")
	}
	e.become(ev.loopRouter, k)
	return e
}

// become makes e an entity of kind k, of which nothing is stored.
func (e *Entity) become(l *LoopRouter, k KindID) {
	e.resident = &residentSet{profile: e.host.Profile(), exists: true}
	e.kind, e.id = k, 0
	made := false
	defer func() {
		if !made { // a panic in Behaviour.New
			e.makeAbsent()
		}
	}()
	e.ensureLiveState(l)
	made = true
	l.router.Table.NoteCreated(e.addr)
}

// ensureLiveState makes the live state of e, if it has none.
func (e *Entity) ensureLiveState(l *LoopRouter) {
	b := e.handler()
	if e.live != nil || e.kind == KindAccount || b == nil || b.New == nil {
		return
	}
	v, made := e.liveState(), false
	defer func() {
		if !made { // a panic: the next that asks for e makes it
			e.live = nil
		}
	}()
	v.value = b.New(l, e)
	made = true
}

// Stored says that e, which was created in memory, is stored under id as soon as t is durable: t is the
// ticket of the batch that has its row in the directory. If t fails, what was committed for e behind t
// has failed too, e is read again, and there is nothing; undo, which may be nil, is then called on the
// loop of l under no lock, to erase what was written under id behind t. Under the lock, on the loop of l.
func (e *Entity) Stored(l *LoopRouter, id uint64, t Ticket, undo func()) {
	e.id = id
	e.liveState().creationTicket = t
	e.MarkUncommitted(l, t)
	l.commitWaiters.await(t, func(err error) {
		switch {
		case err == nil:
			e.lock(l)
			if creationTicketOf(e) == t {
				e.liveState().creationTicket = 0 // what e commits from now on stands for itself
			}
			e.unlock(l)
		case undo != nil:
			undo()
		}
	})
}

// Delete ends e: what comes from now on finds nothing at its address. The caller has taken its row out of
// the directory with t; erased, which may be nil, is called on the loop of l once t is durable, to erase
// its rows; if t fails e is read again. Under the lock, on the loop of l.
func (e *Entity) Delete(l *LoopRouter, t Ticket, erased func()) {
	e.callEnded(l)
	e.makeAbsent()
	e.ticket = max(e.ticket, t)
	e.pins++
	l.commitWaiters.await(t, func(err error) {
		e.lock(l)
		e.pins--
		if err != nil && e.resident != evictedMark && e.kind == 0 {
			e.resident = nil // it is there still: read it again
		}
		e.unlock(l)
		if err == nil && erased != nil {
			erased()
		}
	})
}

// callEnded calls Behaviour.Ended. A panic there keeps nothing from ending.
func (e *Entity) callEnded(l *LoopRouter) {
	if b := e.handler(); b != nil && b.Ended != nil {
		defer l.recoverLocked(e)
		b.Ended(l, e)
	}
}

// makeAbsent makes e an address where there is nothing.
func (e *Entity) makeAbsent() {
	e.resident = &e.host.Profile().absentSet
	e.live, e.kind, e.id = nil, 0, 0
	if e.pending != nil {
		e.pending.timerAt = 0 // another entity at the address has its own
		e.releasePending()
	}
}

// EndEntities ends what is in memory of h, a service host that is not served any more: those who take part
// in its entities are told, as far as [EntityHandler.Ended] does that, what waits for them is answered as for
// a domain that is not here, and what is stored stays. The modules of h are not unloaded before it is
// done. Any goroutine.
func (r *Router) EndEntities(h *Host) {
	for i, l := range r.loopRouters {
		p := h.Profile()
		p.pendingWork.Add(1)
		if !l.Loop.Post(func() { endShard(l, h, p, i) }) {
			p.pendingWork.Add(-1)
		}
	}
}

// endShard ends the entities of h that are in a shard, and goes on with the loop's next shard in another
// turn.
func endShard(l *LoopRouter, h *Host, p *Profile, shard int) {
	if now, ok := l.router.Table.Host(h.Name); ok && now == h {
		p.pendingWork.Add(-1) // it is served again: what is in memory of it goes on
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

// endEntity ends e, whose host is gone. Under the lock.
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
