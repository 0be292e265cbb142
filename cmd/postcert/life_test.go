package main

import (
	"testing"
	"time"
)

const aDay = 24 * time.Hour

// The alarms at each boundary, for the lifetimes that CAs issue in 2026 and those of
// private ones: a certificate of 160 hours and one of 90 days must both make sense.
func TestAlarms(t *testing.T) {
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		whole             time.Duration
		warning, critical time.Duration
	}{
		{160 * time.Hour, 32 * time.Hour, 16 * time.Hour},
		{45 * aDay, 9 * aDay, 108 * time.Hour},
		{64 * aDay, 307*time.Hour + 12*time.Minute, 153*time.Hour + 36*time.Minute},
		{90 * aDay, 18 * aDay, 9 * aDay},
		{150 * aDay, 30 * aDay, 15 * aDay},
		{397 * aDay, 30 * aDay, 15 * aDay},
		{3650 * aDay, 30 * aDay, 15 * aDay},
	}
	for _, tt := range tests {
		l := life{begin, begin.Add(tt.whole)}
		if w, c := l.alarms(); w != tt.warning || c != tt.critical {
			t.Errorf("%v: alarms at %v and %v, want %v and %v", tt.whole, w, c, tt.warning, tt.critical)
		}
		for _, at := range []struct {
			left time.Duration
			want level
		}{
			{tt.whole + time.Second, levelCritical}, // not valid yet
			{tt.whole, levelOK},
			{tt.whole / 3, levelOK}, // when a renewal is due
			{tt.warning + time.Second, levelOK},
			{tt.warning, levelWarning},
			{tt.critical + time.Second, levelWarning},
			{tt.critical, levelCritical},
			{0, levelCritical},
			{-time.Second, levelCritical},
			{-400 * aDay, levelCritical},
		} {
			if got := l.level(l.until.Add(-at.left)); got != at.want {
				t.Errorf("%v, %v left: %v, want %v", tt.whole, at.left, got, at.want)
			}
		}
	}
	// A certificate whose dates are the wrong way round, or that has none.
	for _, l := range []life{{begin, begin.Add(-time.Hour)}, {}} {
		if got := l.level(begin); got != levelCritical {
			t.Errorf("%v: %v", l, got)
		}
	}
}

// What is left, in words and as a bar: an empty bar has expired, and no other is.
func TestLeft(t *testing.T) {
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		whole, left time.Duration
		words, bar  string
	}{
		{90 * aDay, 90 * aDay, "90 days left", "[##########]"},
		{90 * aDay, 45 * aDay, "45 days left", "[#####.....]"},
		{90 * aDay, 3 * aDay, "3 days left", "[#.........]"},
		{90 * aDay, 71 * time.Hour, "71 hours left", "[#.........]"},
		{90 * aDay, time.Minute, "60 s left", "[#.........]"},
		{160 * time.Hour, 80 * time.Hour, "3 days left", "[#####.....]"},
		{160 * time.Hour, 16 * time.Hour, "16 hours left", "[#.........]"},
		{90 * aDay, -time.Second, "EXPIRED 1 s ago", "[..........]"},
		{90 * aDay, -5 * aDay, "EXPIRED 5 days ago", "[..........]"},
		{90 * aDay, 91 * aDay, "not valid yet", "[##########]"},
	}
	for _, tt := range tests {
		l := life{begin, begin.Add(tt.whole)}
		now := l.until.Add(-tt.left)
		if words, bar := l.left(now), l.bar(now, 10); words != tt.words || bar != tt.bar {
			t.Errorf("%v of %v: %q %s, want %q %s", tt.left, tt.whole, words, bar, tt.words, tt.bar)
		}
	}
}
