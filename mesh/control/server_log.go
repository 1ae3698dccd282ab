package control

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// busLog writes what the bus says to a structured log, and notices when a store
// cannot write. It implements server.Logger.
type busLog struct {
	log  *slog.Logger
	sick chan<- struct{}

	mu    sync.Mutex // guards the following
	worst string
}

func (l *busLog) Noticef(format string, v ...any) { l.log.Debug("bus: " + fmt.Sprintf(format, v...)) }
func (l *busLog) Debugf(string, ...any)           {}
func (l *busLog) Tracef(string, ...any)           {}

func (l *busLog) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.watch(text)
	l.log.Warn("bus: " + text)
}

func (l *busLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.watch(text)
	l.log.Error("bus: " + text)
}

func (l *busLog) Fatalf(format string, v ...any) { l.Errorf(format, v...) }

// watch keeps the last bad news, and wakes whoever heals the store. The bus tells
// of a store that cannot write in its log and nowhere else.
func (l *busLog) watch(text string) {
	l.mu.Lock()
	l.worst = text
	l.mu.Unlock()
	if !strings.Contains(text, "failed to store a msg") && !strings.Contains(text, "no space left") && !strings.Contains(text, "will be DISABLED") {
		return
	}
	select {
	case l.sick <- struct{}{}:
	default:
	}
}

// last returns the last bad news.
func (l *busLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.worst == "" {
		return "it did not become ready in " + busReady.String()
	}
	return l.worst
}

// decodeSignature reads the signature of a nonce in either alphabet that clients
// use.
func decodeSignature(text string) ([]byte, error) {
	if sig, err := base64.RawURLEncoding.DecodeString(text); err == nil {
		return sig, nil
	}
	return base64.StdEncoding.DecodeString(text)
}
