package delivery

import (
	"errors"
	"testing"
)

func inbox(t *testing.T, window Window, sizes ...int) *Inbox[int] {
	t.Helper()
	i := NewInbox[int](window, 0)
	for n, size := range sizes {
		if err := i.Put(n+1, size); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

func TestDuplicatesAreSkippedAndAcknowledgedAgain(t *testing.T) {
	i := inbox(t, Window{10, 1000}, 1, 1)
	i.Take()
	i.Ack()
	known, err := i.Skip(1, 4)
	if known != 2 || err != nil {
		t.Fatalf("skips %d, %v", known, err)
	}
	if !i.AckPending() || i.Ack() != 1 {
		t.Error("the peer is not told again")
	}
}

func TestAGapSaysWhatWasDue(t *testing.T) {
	i := inbox(t, Window{10, 1000}, 1, 1)
	_, err := i.Skip(4, 1)
	var gap *GapError
	if !errors.As(err, &gap) || gap.Expected != 3 || gap.Got != 4 {
		t.Fatalf("got %v", err)
	}
	if known, err := i.Skip(3, 1); known != 0 || err != nil {
		t.Errorf("the one that was due: skips %d, %v", known, err)
	}
}

func TestMoreThanTheWindowIsRefused(t *testing.T) {
	for _, window := range []Window{{2, 1000}, {10, 2}} {
		i := inbox(t, window, 1, 1)
		if i.HasRoom() {
			t.Errorf("%v: has room", window)
		}
		if err := i.Put(3, 1); err == nil {
			t.Errorf("%v: takes a third", window)
		}
		i.PutExempt(3, 1)
		if i.Expected() != 4 {
			t.Errorf("%v: the exempt one is not there", window)
		}
	}
}

func TestOneOfAnySizeFitsAnEmptyInbox(t *testing.T) {
	inbox(t, Window{10, 5}, 50)
}

func TestOnlyWhatIsTakenIsAcknowledged(t *testing.T) {
	i := inbox(t, Window{8, 1000}, 1, 1, 1)
	if i.AckPending() {
		t.Error("there is something to acknowledge, but nothing was taken")
	}
	i.Take()
	if !i.AckPending() || i.AckDue() {
		t.Errorf("after one of eight: pending %v, due %v", i.AckPending(), i.AckDue())
	}
	i.Take()
	if !i.AckDue() {
		t.Error("a quarter of the window is not due")
	}
	if i.Ack() != 2 || i.AckPending() || i.AckDue() {
		t.Error("there is something to acknowledge after it was")
	}
}

func TestAQuarterOfTheBytesIsDue(t *testing.T) {
	i := inbox(t, Window{1000, 100}, 24, 1)
	i.Take()
	if i.AckDue() {
		t.Error("24 of 100 bytes are due")
	}
	i.Take()
	if !i.AckDue() {
		t.Error("25 of 100 bytes are not due")
	}
}

func TestANewStreamIsToldAgain(t *testing.T) {
	i := inbox(t, Window{100, 1000}, 1, 1)
	i.Take()
	i.Ack()
	i.RestartAcks()
	if !i.AckPending() || i.Ack() != 1 {
		t.Error("the ack that may be lost is not told again")
	}
}
