package session

import (
	"math/rand/v2"
	"time"
)

// RetryPolicy says how a client comes back after a lost connection. A field that is zero has its default.
type RetryPolicy struct {
	// Initial is the most to wait before the first try; 200 ms by default.
	Initial time.Duration
	// Maximum is the most to wait before any later one; it doubles until there. 10 s by default.
	Maximum time.Duration
	// Total is the time without progress after which the session counts as lost; 2 min by default. Progress is that an
	// event was taken over, a command came, or a connection lasted. A session that has nothing to send is not lost as
	// long as it is reached.
	Total time.Duration
	// AttachTimeout is the time that one try may take; 10 s by default.
	AttachTimeout time.Duration
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	for _, field := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&p.Initial, 200 * time.Millisecond},
		{&p.Maximum, 10 * time.Second},
		{&p.Total, 2 * time.Minute},
		{&p.AttachTimeout, 10 * time.Second},
	} {
		if *field.value <= 0 {
			*field.value = field.fallback
		}
	}
	return p
}

const (
	// A stream that has lived for so long, or for a heartbeat interval, is progress.
	longLife = 25 * time.Second

	// A break so soon after an event was written may be that event's fault, and so long it is held back to find out.
	suspicious = 5 * time.Second

	// After so many such breaks in a row the event is held back, and after so many it is given up.
	breaksToHold   = 3
	breaksToGiveUp = 5
)

// patience knows how long to go on with a path that breaks (protocol D7). It has no clock: it is told what happens and
// when, and says how long to wait, whether to hold events back, and whether to give up.
type patience struct {
	policy RetryPolicy
	since  time.Time     // when it began, or began anew
	most   time.Duration // of the last back-off; 0 before the first since progress

	acked, received uint64 // the most that there has been

	// Of the current stream. Before the answer attachedAt is zero.
	attachedAt time.Time
	life       time.Duration // what makes it progress
	writes     []write       // of what is not acknowledged, in order

	breaks int // in a row that may be the fault of the first unacknowledged event
}

// write says when events, up to a sequence, were written.
type write struct {
	last uint64
	at   time.Time
}

func newPatience(policy RetryPolicy, now time.Time) *patience {
	return &patience{policy: policy, since: now}
}

// attached begins a stream. Idle means that the server has taken over all events. It returns for how long to hold events
// back.
func (p *patience) attached(now time.Time, heartbeatInterval time.Duration, idle bool) time.Duration {
	p.attachedAt, p.life = now, min(heartbeatInterval, longLife)
	if idle {
		p.since = now
	}
	if p.breaks == breaksToHold {
		return suspicious
	}
	return 0
}

// suspects reports whether the first unacknowledged event may be poisoned: it shall be written alone.
func (p *patience) suspects() bool { return p.breaks >= breaksToHold }

// heard says how far both directions have come: the last event taken over, and the last command that has arrived.
func (p *patience) heard(now time.Time, acked, received uint64) {
	if acked > p.acked {
		p.breaks = 0 // another event is the first now
	}
	if acked > p.acked || received > p.received {
		p.progress(now)
	}
	p.acked, p.received = max(p.acked, acked), max(p.received, received)
	for len(p.writes) > 0 && p.writes[0].last <= p.acked {
		p.writes = p.writes[1:]
	}
}

// wrote says that events up to a sequence are handed to the stream.
func (p *patience) wrote(now time.Time, last uint64) {
	p.writes = append(p.writes, write{last, now})
}

// broke ends a try, attached or not. Explained means that the server has said why. It returns how long to wait before the
// next one, and whether to give the first unacknowledged event up.
func (p *patience) broke(now time.Time, explained bool) (wait time.Duration, poisoned bool) {
	if !p.attachedAt.IsZero() {
		if now.Sub(p.attachedAt) >= p.life {
			p.progress(now)
		}
		if !explained && len(p.writes) > 0 && now.Sub(p.writes[0].at) <= suspicious {
			p.breaks++
		} else {
			p.breaks = 0
		}
	}
	p.attachedAt, p.writes = time.Time{}, nil
	// Full jitter (Brooker, "Exponential Backoff And Jitter", 2015).
	p.most = min(max(p.policy.Initial, 2*p.most), p.policy.Maximum)
	return rand.N(p.most + 1), p.breaks >= breaksToGiveUp
}

// over reports whether a limit has passed without progress.
func (p *patience) over(now time.Time, limit time.Duration) bool { return now.Sub(p.since) > limit }

// calm reports whether nothing has broken since the last progress.
func (p *patience) calm() bool { return p.most == 0 }

func (p *patience) progress(now time.Time) {
	p.since, p.most = now, 0
}
