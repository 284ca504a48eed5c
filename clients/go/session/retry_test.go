package session

import (
	"testing"
	"time"
)

// A path is told of as the stream would tell it, with a clock that stands still in between.
type path struct {
	t       *testing.T
	p       *patience
	now     time.Time
	acked   uint64
	beat    time.Duration
	waits   []time.Duration
	holds   []time.Duration
	poison  bool
	pending bool // something is unacknowledged
}

func newPath(t *testing.T) *path {
	now := time.Now()
	p := &path{t: t, now: now, beat: longLife, pending: true}
	p.p = newPatience(RetryPolicy{Initial: time.Second, Maximum: 8 * time.Second}.withDefaults(), now)
	return p
}

func (p *path) attach() {
	p.p.heard(p.now, p.acked, 0)
	p.holds = append(p.holds, p.p.attached(p.now, p.beat, !p.pending))
}

func (p *path) write(last uint64) { p.p.wrote(p.now, last) }

func (p *path) ack(sequence uint64) {
	p.acked = sequence
	p.p.heard(p.now, sequence, 0)
}

func (p *path) wait(d time.Duration) { p.now = p.now.Add(d) }

func (p *path) cut() { p.end(false) }

func (p *path) end(explained bool) {
	wait, poisoned := p.p.broke(p.now, explained)
	if wait < 0 || wait > p.p.most {
		p.t.Errorf("waits %v of at most %v", wait, p.p.most)
	}
	p.waits, p.poison = append(p.waits, p.p.most), poisoned
}

// poisoned is a stream that breaks a moment after the first unacknowledged event was written.
func (p *path) poisoned() {
	p.attach()
	p.write(p.acked + 1)
	p.wait(50 * time.Millisecond)
	p.cut()
}

func (p *path) without() time.Duration { return p.now.Sub(p.p.since) }

func TestBackOffDoublesUntilThereIsProgressAndToBeAttachedIsNone(t *testing.T) {
	p := newPath(t)
	for range 3 {
		p.attach()
		p.wait(50 * time.Millisecond)
		p.cut()
	}
	p.cut() // refused
	p.cut()
	for n, want := range []time.Duration{1, 2, 4, 8, 8} {
		if p.waits[n] != want*time.Second {
			t.Errorf("waits at most %v", p.waits)
		}
	}
}

func TestProgress(t *testing.T) {
	for name, test := range map[string]struct {
		happens  func(p *path)
		progress bool
	}{
		"an ack that advanced":              {func(p *path) { p.attach(); p.write(3); p.ack(1) }, true},
		"what a resumed says was received":  {func(p *path) { p.acked = 1; p.attach() }, true},
		"a new command":                     {func(p *path) { p.attach(); p.p.heard(p.now, 0, 1) }, true},
		"25 seconds of life":                {func(p *path) { p.attach(); p.wait(longLife) }, true},
		"an interval of life":               {func(p *path) { p.beat = time.Second; p.attach(); p.wait(time.Second) }, true},
		"a long interval's 25 s":            {func(p *path) { p.beat = time.Hour; p.attach(); p.wait(longLife) }, true},
		"less than that":                    {func(p *path) { p.attach(); p.wait(longLife - 1) }, false},
		"to be attached":                    {func(p *path) { p.attach() }, false},
		"to be attached with nothing to do": {func(p *path) { p.pending = false; p.attach() }, false},
		"the same ack again":                {func(p *path) { p.attach(); p.ack(0) }, false},
		"a refused connection":              {func(p *path) { p.wait(time.Minute) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPath(t)
			p.cut()
			p.cut()
			test.happens(p)
			p.cut()
			if began := p.waits[2] == time.Second; began != test.progress {
				t.Errorf("back-off began anew: %v", began)
			}
		})
	}
}

func TestPatienceBeginsAnewAtProgressAndAtEachAttachmentOfAnIdleSession(t *testing.T) {
	p := newPath(t)
	for range 10 { // 200 s, without progress
		p.attach()
		p.wait(20 * time.Second)
		p.cut()
	}
	if p.without() != 200*time.Second || !p.p.over(p.now, 2*time.Minute) {
		t.Errorf("without progress for %v", p.without())
	}
	p.pending = false
	p.attach()
	p.wait(20 * time.Second)
	p.cut()
	if p.without() != 20*time.Second || p.p.over(p.now, 2*time.Minute) {
		t.Errorf("idle, without an attachment for %v", p.without())
	}
	p.attach()
	p.wait(time.Hour)
	p.cut()
	if p.without() != 0 {
		t.Errorf("after an hour of life without progress for %v", p.without())
	}
}

func TestAPoisonedEventIsHeldBackAfterTheThirdBreakAndGivenUpAtTheFifth(t *testing.T) {
	p := newPath(t)
	for range 3 {
		p.poisoned()
		p.cut() // a refused connection does not count, neither way
	}
	p.attach()
	p.wait(suspicious)
	p.write(1)
	p.wait(suspicious)
	p.cut()
	if p.poison {
		t.Fatal("given up at the fourth")
	}
	p.poisoned()
	if !p.poison {
		t.Fatal("not given up at the fifth")
	}
	for n, want := range []time.Duration{0, 0, 0, suspicious, 0} {
		if p.holds[n] != want {
			t.Errorf("held back for %v", p.holds)
		}
	}
}

func TestWhatAcquitsAnEvent(t *testing.T) {
	for name, happens := range map[string]func(p *path){
		"a break while it was held back":  func(p *path) { p.attach(); p.wait(suspicious - 1); p.cut() },
		"a break later than 5 s after it": func(p *path) { p.attach(); p.write(1); p.wait(suspicious + 1); p.cut() },
		"an error of the server's":        func(p *path) { p.attach(); p.write(1); p.end(true) },
		"its ack": func(p *path) {
			p.attach()
			p.write(2)
			p.ack(1)
			p.cut()
			for range 2 { // the second one, written at once, has had one already
				p.poisoned()
			}
			p.attach()
			if p.holds[len(p.holds)-1] != suspicious {
				p.t.Error("not the same again for the second event")
			}
			p.ack(2)
			p.cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPath(t)
			for range 3 {
				p.poisoned()
			}
			happens(p)
			for n := range 4 {
				if p.poisoned(); p.poison {
					t.Fatalf("given up after %d breaks", n+1)
				}
			}
			if p.poisoned(); !p.poison {
				t.Fatal("not given up at the fifth")
			}
		})
	}
}

func TestTheTimeOfAWriteIsThatOfTheEventAndNotOfLaterOnes(t *testing.T) {
	p := newPath(t)
	for range 10 {
		p.attach()
		p.write(1)
		p.wait(suspicious + 1)
		p.write(2)
		if p.cut(); p.p.breaks > 0 {
			t.Fatal("a late break counts")
		}
	}
	p.attach()
	p.write(1)
	p.write(2)
	p.wait(suspicious + 1)
	p.ack(1) // the second is the first now, and was written long ago
	if p.cut(); p.p.breaks > 0 {
		t.Error("a late break of the second counts")
	}
}
