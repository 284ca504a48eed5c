package delivery

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// A batch or an ack on its way over one stream.
type packet struct {
	first uint64
	items []int
	ack   uint64
}

// TestEverythingArrivesOnceAndInOrderOverAnyNetwork joins an outbox and an inbox by a network that breaks at random:
// what is under way then is lost, in either direction.
func TestEverythingArrivesOnceAndInOrderOverAnyNetwork(t *testing.T) {
	const total = 200
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		window := Window{Messages: 1 + random.Uint32N(8), Bytes: 1 + random.Uint32N(40)}
		o, i := NewOutbox[int](0), NewInbox[int](window, 0)
		o.Window = window
		var up, down []packet
		var got []int
		for appended := 0; len(got) < total; {
			switch random.IntN(7) {
			case 0:
				if appended < total && o.HasRoom() {
					appended++
					o.Append(appended, 1+random.IntN(12))
				}
			case 1:
				if first, items := o.Take(20, 0); len(items) > 0 {
					up = append(up, packet{first: first, items: items})
				}
			case 2, 3:
				if len(up) > 0 {
					receive(t, i, up[0])
					up = up[1:]
				}
			case 4:
				if item, ok := i.Head(); ok {
					got = append(got, item)
					i.Take()
				}
			case 5:
				if i.AckPending() {
					down = append(down, packet{ack: i.Ack()})
				}
				if len(down) > 0 {
					if err := o.Ack(down[0].ack); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
					down = down[1:]
				}
			case 6:
				if random.IntN(10) == 0 {
					up, down = nil, nil
					i = NewInbox[int](window, i.Taken()) // what was not taken over dies with its stream (D1a)
					if err := o.Resume(i.Taken()); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
				}
			}
		}
		if want := upTo(total); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v", seed, got)
		}
	}
}

func upTo(n int) []int {
	items := make([]int, n)
	for i := range items {
		items[i] = i + 1
	}
	return items
}

func receive(t *testing.T, i *Inbox[int], p packet) {
	t.Helper()
	known, err := i.Skip(p.first, len(p.items))
	if gap := (*GapError)(nil); errors.As(err, &gap) {
		t.Fatal(err)
	}
	for _, item := range p.items[known:] {
		if err := i.Put(item, 1); err != nil {
			t.Fatal(err)
		}
	}
}
