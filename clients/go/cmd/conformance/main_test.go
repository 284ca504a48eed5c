package main

import (
	"bytes"
	"fmt"
	"testing"

	pb "github.com/session-service/session-service/clients/go/internal/conformancepb"
)

// answers has the driver carry out instructions and returns its observations.
func answers(t *testing.T, instructions ...*pb.Instruction) []*pb.Observation {
	t.Helper()
	var in, out bytes.Buffer
	for _, instruction := range instructions {
		if err := write(&in, instruction); err != nil {
			t.Fatal(err)
		}
	}
	d := &driver{}
	defer d.stop()
	if err := serve(t.Context(), d, &in, &out); err != nil {
		t.Fatal(err)
	}
	var observations []*pb.Observation
	for out.Len() > 0 {
		observation := &pb.Observation{}
		if err := read(&out, observation); err != nil {
			t.Fatal(err)
		}
		observations = append(observations, observation)
	}
	return observations
}

func TestEachInstructionIsAnsweredInOrder(t *testing.T) {
	got := answers(t,
		&pb.Instruction{Instruction: &pb.Instruction_Open{Open: &pb.OpenSession{App: "echo"}}},
		&pb.Instruction{Instruction: &pb.Instruction_Connect{Connect: &pb.Connect{Address: "127.0.0.1:1"}}},
		&pb.Instruction{Instruction: &pb.Instruction_Send{Send: &pb.Send{Event: "say"}}},
	)
	if len(got) != 3 || got[0].GetError() == nil || got[1].GetDone() == nil || got[2].GetError() == nil {
		t.Errorf("got %v", got)
	}
}

func TestAnOpenInTheBackgroundIsGivenUp(t *testing.T) {
	got := answers(t,
		&pb.Instruction{Instruction: &pb.Instruction_Connect{Connect: &pb.Connect{Address: "127.0.0.1:1"}}},
		&pb.Instruction{Instruction: &pb.Instruction_Open{Open: &pb.OpenSession{App: "echo", InBackground: true}}},
		&pb.Instruction{Instruction: &pb.Instruction_GiveUp{GiveUp: &pb.GiveUp{}}},
	)
	if len(got) != 3 || got[1].GetDone() == nil || !got[2].GetDone().GetCancelled() {
		t.Errorf("got %v", got)
	}
}

func TestHalfAnInstructionIsAnError(t *testing.T) {
	if err := serve(t.Context(), &driver{}, bytes.NewReader([]byte{0, 0, 0, 9, 1}), &bytes.Buffer{}); err == nil {
		t.Error("it is taken for the end")
	}
}

func TestJSONIsDecodedAsAGoProgramWouldHoldIt(t *testing.T) {
	for text, kind := range map[string]string{
		`{"a":1}`: "map[string]interface {}", `18446744073709551616`: "json.Number", `NaN`: "json.RawMessage", `"\ud800"`: "json.RawMessage",
	} {
		if got := fmt.Sprintf("%T", decode(text)); got != kind {
			t.Errorf("%s: got a %s", text, got)
		}
	}
}
