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
	// Total is the time without an attachment after which the session counts as lost; 2 min by default.
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

// delays gives exponential delays with full jitter (Brooker, "Exponential Backoff And Jitter", 2015).
type delays struct {
	policy RetryPolicy
	most   time.Duration
}

// reset begins anew: an attachment succeeded.
func (d *delays) reset() { d.most = 0 }

// next returns how long to wait before the next try.
func (d *delays) next() time.Duration {
	if d.most == 0 {
		d.most = d.policy.Initial
	} else {
		d.most *= 2
	}
	d.most = min(d.most, d.policy.Maximum)
	return rand.N(d.most + 1)
}
