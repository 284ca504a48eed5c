// Package examples holds programs to run and to read.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/session-service/session-service/clients/go/internal/servertest"
)

func TestTheExamplesRun(t *testing.T) {
	address := servertest.Start(t)
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", programs, "./plain", "./greet").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, test := range map[string]struct {
		args  []string
		stdin string
		want  string
	}{
		"plain": {[]string{address}, "", "echo hello\n"},
		"greet": {
			[]string{"-address", address}, "Ada\nold\n36\n",
			"What is your name? How old are you, Ada? No: an age is a whole number of years.\n" +
				"How old are you, Ada? Hello Ada, 36 is a fine age!\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			program := exec.CommandContext(t.Context(), filepath.Join(programs, name), test.args...)
			program.Stdin = strings.NewReader(test.stdin)
			out, err := program.CombinedOutput()
			if err != nil || string(out) != test.want {
				t.Errorf("%v: %q", err, out)
			}
		})
	}
}

func TestTheReadmeShowsThePlainExampleAsItIs(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("plain/main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(readme), "```go\n")
	block, _, _ = strings.Cut(block, "```")
	lines := strings.Split(strings.TrimSpace(block), "\n")
	shown := "\t" + strings.Join(lines, "\n\t") + "\n"
	if len(lines) < 10 || !strings.Contains(string(source), shown) {
		t.Errorf("examples/plain/main.go does not hold the first block of the README:\n%s", shown)
	}
}
