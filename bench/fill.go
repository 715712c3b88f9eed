package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// fillStall is how long a fill waits for the next message to arrive.
const fillStall = 20 * time.Second

// fill lets the clients of list write until each client of the phase's group To that is in this process has
// got Rows messages: of the clients of list in turn, and with InFlight on their way. It returns when all have
// come, or have been taken by the server where To is away.
func (f *Fleet) fill(ctx context.Context, k int, list []*client, part Assignment) error {
	p := &f.sc.Phases[k]
	to := f.members(p.To)
	if len(to) == 0 {
		return nil
	}
	if len(list) == 0 {
		return Failure{fmt.Sprintf("group %s has clients in this process, and no others write to them", p.To),
			"fewer --workers, or more clients that write"}
	}
	id := f.firstStep[k]
	a := &Action{Kind: Chat, To: p.To, Away: p.Away, Window: p.InFlight, Body: fillBody, fills: true}
	f.windows[id] = &window{signal: make(chan struct{}, 1)}
	// The loops of all that take part must see the window before the first delivery.
	f.onLoops(append(slices.Clone(list), to...), func(*loopState, *client) {})
	total := p.Rows * len(to)
	fraction := float64(len(to)) / float64(max(f.groupSize(p.To), 1))
	ended := f.closedLoop(ctx, id, max(1, int(float64(p.InFlight)*fraction+.5)), total,
		func(n int) *client { return list[n/len(to)%len(list)] }, func(*client) int64 { return 1 },
		f.operationFunc(a, id, list, to, newPermutation(len(list), f.run), 0))
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if ended < total {
		return Failure{fmt.Sprintf("%d of %d messages were handled, and the phase's length was over, or none came "+
			"for %v", ended, total, fillStall), "give the phase more length; is the server overloaded, or full?"}
	}
	return nil
}

// fillBody is the length of the messages of a fill, in bytes.
const fillBody = 100
