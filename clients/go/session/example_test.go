package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/session-service/session-service/clients/go/session"
)

// A whole conversation with the example app greet.
func Example() {
	ctx := context.Background()
	client, err := session.NewClient("localhost:50051", session.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	s, err := client.Open(ctx, "greet", session.WithParams(map[string]any{"name": "Ada"}))
	if err != nil {
		log.Fatal(err)
	}
	for command := range s.Commands(ctx) {
		switch command.Name {
		case "ask":
			err = s.SendTo(ctx, command.TaskID, "answer", 36)
		case "greeting":
			var greeting struct{ Text string }
			err = command.Decode(&greeting)
			fmt.Println(greeting.Text)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := s.Err(); err != nil {
		log.Fatal(err)
	}
	closed, err := s.Close(ctx, "")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(closed.Reason)
}

// A program that is about to be replaced leaves its session to the next one.
func ExampleClient_Resume() {
	handOver := func(ctx context.Context, s *session.Session) error {
		position, err := s.Detach(ctx)
		if err != nil {
			return err
		}
		text, err := json.Marshal(position)
		if err != nil {
			return err
		}
		return os.WriteFile("session.json", text, 0o600) // the position is a secret
	}
	takeOn := func(ctx context.Context, client *session.Client) (*session.Session, error) {
		text, err := os.ReadFile("session.json")
		if err != nil {
			return nil, err
		}
		var position session.Position
		if err := json.Unmarshal(text, &position); err != nil {
			return nil, err
		}
		return client.Resume(ctx, position)
	}
	_, _ = handOver, takeOn
}

// Tokens that expire are asked for at each attach.
func ExampleWithCredentials() {
	token := func(context.Context) (string, error) { return "...", nil }
	client, err := session.NewClient("example.com:443", session.WithCredentials(
		func(ctx context.Context) (metadata.MD, error) {
			token, err := token(ctx)
			return metadata.Pairs("authorization", "Bearer "+token), err
		},
	))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

// What a failed session tells about its events.
func ExampleLostError() {
	handle := func(err error) {
		var (
			lost    *session.LostError
			refused *session.RefusedError
		)
		switch {
		case errors.Is(err, session.ErrTakenOver):
			log.Print("another program has the session now")
		case errors.As(err, &lost):
			log.Printf("events up to %d are known to have arrived; the app may still run", lost.TakenOver)
		case errors.As(err, &refused):
			log.Printf("the server says %s", refused.Reason)
		}
	}
	_ = handle
}

// A client that gives up sooner.
func ExampleWithRetryPolicy() {
	client, err := session.NewClient("example.com:443", session.WithRetryPolicy(session.RetryPolicy{Total: 15 * time.Second}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}
