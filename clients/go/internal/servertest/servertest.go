// Package servertest runs the real server for tests.
package servertest

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Start starts the server with its example apps and these options, and returns its address. The test is skipped where there
// is none; with CI set it fails.
func Start(t *testing.T, options ...string) string {
	t.Helper()
	program := os.Getenv("SESSION_SERVICE")
	if program == "" {
		_, here, _, _ := runtime.Caller(0)
		program = filepath.Join(filepath.Dir(here), "../../../../.venv/bin/session-service")
	}
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no server: %v; `make setup` in the repository installs it, or SESSION_SERVICE names it", err)
		}
		t.Skipf("no server: %v; `make setup` in the repository installs it, or SESSION_SERVICE names it", err)
	}
	args := append([]string{"serve", "--listen", "127.0.0.1:0"}, options...)
	server := exec.Command(program, append(args, "session_service.examples:apps")...)
	server.Stderr = t.Output()
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGKILL)
		_ = server.Wait() // it was killed
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the server says %q, %v", line, err)
	}
	return address
}
