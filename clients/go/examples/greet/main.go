// Command greet answers the questions of the example app greet, from the terminal. Its session outlives its connection:
// restart a proxy in between, or unplug the network. It needs a server: `make run` in the root of the repository.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/session-service/session-service/clients/go/session"
)

func main() {
	address := flag.String("address", "localhost:50051", "where the server listens")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := greet(ctx, *address, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func greet(ctx context.Context, address string, in io.Reader, out io.Writer) error {
	client, err := session.NewClient(address,
		session.WithTransportCredentials(insecure.NewCredentials()),
		session.WithOnAttachment(func(a session.Attachment) {
			if a.State == session.Lost {
				fmt.Fprintf(out, "(lost the server: %v)\n", a.Err)
			}
		}),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := client.Open(ctx, "greet")
	if err != nil {
		return err
	}

	lines := bufio.NewScanner(in)
	for command := range s.Commands(ctx) {
		var spec struct{ Question, Problem, Text string }
		if err := command.Decode(&spec); err != nil {
			return err
		}
		switch command.Name {
		case "ask":
			if spec.Problem != "" {
				fmt.Fprintf(out, "No: %s.\n", spec.Problem)
			}
			fmt.Fprint(out, spec.Question+" ")
			if !lines.Scan() {
				_, err := s.CloseNow(ctx, "nobody answers")
				return errors.Join(lines.Err(), err)
			}
			if err := s.SendTo(ctx, command.TaskID, "answer", lines.Text()); err != nil {
				return err
			}
		case "greeting":
			fmt.Fprintln(out, spec.Text)
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	_, err = s.Close(ctx, "")
	return err
}
