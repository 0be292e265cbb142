package rehearsal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"postcert/deploy/program"
)

const (
	roomsName  = "rehearsal" // below RuntimeDir: the directory of all rehearsals
	configName = "c"         // below a room: config_directory
	queueName  = "q"         // queue_directory; short, because sockets are below it
	relayName  = "r"         // sockets of the relays before postscreen
)

// logVariable is how Postfix tells a daemon that has not read main.cf yet where
// postlogd(8) listens. It also marks the processes of a rehearsal.
const logVariable = "POSTLOG_SERVICE"

// maxSocket is how long the path of a socket may be: unix(7), sun_path with its
// final zero byte.
const maxSocket = 107

// hot is how far back the time of main.cf is set. Postfix waits until main.cf
// has not been changed for 2 s (dict_load_file_xt).
const hot = 10 * time.Second

// lockWait bounds the wait for another rehearsal that is just being opened.
const lockWait = 5 * time.Second

// room is the directory of one rehearsal, locked as long as it is in use, and
// what runs in it.
type room struct {
	dir    string
	lock   *os.File // the directory itself
	log    *journal
	relays map[string]*relay // by the socket name of their group
	ran    bool              // a master may run
}

// open makes a directory that belongs to this rehearsal alone.
func (s Stage) open(ctx context.Context) (*room, error) {
	rooms, err := s.rooms(true)
	if err != nil {
		return nil, err
	}
	// With this lock nobody sweeps between mkdir(2) and the room's own lock.
	door, err := lockDir(ctx, rooms, lockWait)
	if err != nil {
		return nil, err
	}
	defer door.Close()
	name := make([]byte, 4)
	rand.Read(name)
	dir := filepath.Join(rooms, hex.EncodeToString(name))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, dir, 0)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &room{dir: dir, lock: lock, relays: map[string]*relay{}}, nil
}

// rooms is the directory of all rehearsals, without symbolic links in its path.
// It is only root's: who may write in it could exchange a file that a private
// daemon reads as root.
func (s Stage) rooms(create bool) (string, error) {
	if uid := os.Geteuid(); uid != 0 {
		return "", fmt.Errorf("a private Postfix is started by root, not by uid %d", uid)
	}
	if !filepath.IsAbs(s.RuntimeDir) {
		return "", fmt.Errorf("RuntimeDir %q is not an absolute path", s.RuntimeDir)
	}
	rooms := filepath.Join(s.RuntimeDir, roomsName)
	if create {
		if err := os.MkdirAll(s.RuntimeDir, 0o700); err != nil {
			return "", err
		}
		if err := os.Mkdir(rooms, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	dir, err := filepath.EvalSymlinks(s.RuntimeDir)
	if err != nil {
		return "", err
	}
	rooms = filepath.Join(dir, roomsName)
	return rooms, errors.Join(onlyOurs(dir, 0o022), onlyOurs(rooms, 0o077))
}

// onlyOurs refuses a directory of another owner, or with one of these
// permissions.
func onlyOurs(dir string, not fs.FileMode) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.IsDir() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&not != 0 {
		return fmt.Errorf("%s is not a directory that only root can use (%s)", dir, fi.Mode())
	}
	return nil
}

// lockDir opens and locks a directory. It waits for the lock for at most wait.
func lockDir(ctx context.Context, dir string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(wait); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != syscall.EINTR && (err != syscall.EWOULDBLOCK || time.Now().After(end)) {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// furnish writes what the private Postfix needs, and listens for its log.
func (r *room) furnish(c Candidate, groups []group) error {
	for _, g := range groups {
		if p := r.socket(g); len(p) > maxSocket {
			return fmt.Errorf("the path of a socket is longer than %d bytes: %s", maxSocket, p)
		}
	}
	owner := c.Parameters["mail_owner"]
	if owner == "" {
		owner = "postfix"
	}
	uid, err := userID(owner)
	if err != nil {
		return err
	}
	for _, d := range []struct {
		name string
		uid  int
		mode fs.FileMode
	}{
		{configName, 0, 0o700},
		// mail_owner works in queue_directory, but cannot come there by itself.
		{queueName, 0, 0o711},
		{queueName + "/pid", 0, 0o755},
		{queueName + "/public", 0, 0o711},
		{queueName + "/private", uid, 0o700},
		{queueName + "/data", uid, 0o700},
		{relayName, 0, 0o700},
	} {
		path := filepath.Join(r.dir, d.name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, d.mode), os.Chown(path, d.uid, 0)); err != nil {
			return err
		}
	}
	main, err := mainCF(c, r.dir)
	if err != nil {
		return err
	}
	if err := errors.Join(r.write("main.cf", main), r.write("master.cf", masterCF(groups))); err != nil {
		return err
	}
	if r.log, err = listen(r.logSocket(), groups, needles(c, groups)); err != nil {
		return err
	}
	return r.relay(groups)
}

func userID(name string) (int, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(u.Uid)
}

func (r *room) write(name string, data []byte) error {
	path := filepath.Join(r.dir, configName, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	old := time.Now().Add(-hot)
	return os.Chtimes(path, old, old)
}

func (r *room) relay(groups []group) error {
	for i, g := range groups {
		if !g.postscreen {
			continue
		}
		rel, err := introduce(filepath.Join(r.dir, relayName, strconv.Itoa(i)), r.socket(g))
		if err != nil {
			return err
		}
		r.relays[g.socket] = rel
	}
	return nil
}

// start starts the master and returns when it listens. It exits after life.
func (r *room) start(ctx context.Context, daemons string, life time.Duration) error {
	r.ran = true
	_, err := program.Run(ctx, program.Command{
		Path: filepath.Join(daemons, "master"),
		Args: []string{"-c", filepath.Join(r.dir, configName), "-w", "-e", strconv.Itoa(int(life / time.Second))},
		// Until a daemon has read main.cf, these say where it logs.
		Env:     []string{logVariable + "=" + r.logSocket(), "POSTLOG_HOSTNAME=localhost"},
		Timeout: startTimeout,
	})
	return err
}

// startTimeout bounds the start of the master, which takes milliseconds.
const startTimeout = 10 * time.Second

func (r *room) socket(g group) string { return filepath.Join(r.dir, queueName, "private", g.socket) }
func (r *room) logSocket() string     { return filepath.Join(r.dir, queueName, "public", "postlog") }

// address is where a client reaches g.
func (r *room) address(g group) string {
	if rel := r.relays[g.socket]; rel != nil {
		return rel.path
	}
	return r.socket(g)
}

// close ends what runs in the room and removes it.
func (r *room) close() error {
	var errs []error
	for _, rel := range r.relays {
		errs = append(errs, rel.close())
	}
	// The log is read until the last daemon is gone: one that cannot log waits.
	if r.ran {
		errs = append(errs, end(r.dir))
	}
	err := os.RemoveAll(r.dir)
	// A master that was just being started was not there yet.
	if r.ran && (err != nil || len(inside(r.dir)) > 0) {
		errs = append(errs, end(r.dir))
		err = os.RemoveAll(r.dir)
	}
	if r.log != nil {
		errs = append(errs, r.log.close())
	}
	return errors.Join(append(errs, err, r.lock.Close())...)
}

// Sweep ends what earlier rehearsals left whose process was killed, and removes
// their directories. Rehearsals under way are left alone. It is not an error if
// there was never a rehearsal.
func (s Stage) Sweep(ctx context.Context) error {
	rooms, err := s.rooms(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	left, err := abandoned(ctx, rooms)
	for _, r := range left {
		r.ran = true
		err = errors.Join(err, r.close())
	}
	return err
}

// abandoned are the rooms in use by nobody, now locked by us.
func abandoned(ctx context.Context, rooms string) ([]*room, error) {
	door, err := lockDir(ctx, rooms, lockWait)
	if err != nil {
		return nil, err
	}
	defer door.Close()
	entries, err := os.ReadDir(rooms)
	var left []*room
	for _, e := range entries {
		dir := filepath.Join(rooms, e.Name())
		if _, err := hex.DecodeString(e.Name()); err != nil || !e.IsDir() {
			continue // not our name
		}
		if lock, err := lockDir(ctx, dir, 0); err == nil {
			left = append(left, &room{dir: dir, lock: lock})
		}
	}
	return left, err
}
