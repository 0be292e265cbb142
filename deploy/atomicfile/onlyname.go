package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// tick is longer than the steps in which any kernel counts the time of a change
// (10 ms at most, CONFIG_HZ=100).
const tick = 15 * time.Millisecond

// onlyName makes sure that path is the one name of the open file f. Somebody
// who can write the directory could otherwise show us a file of somebody else
// under a hard link.
//
// To look at the number of names is not enough there: he removes the link
// after we opened it and the number is 1 again, and no two looks, one at the
// name and one at the number, are one. So it is proved: the number is 1, the
// name leads to the file, and the number is still 1 without any change of the
// inode in between. That there was none its ctime tells, if it is older than
// the clock's step. A file that changes all the time is refused.
func onlyName(fsys FS, path string, f FileHandle) error {
	for range 10 {
		start := time.Now()
		first, err := f.Stat()
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if first.Nlink > 1 {
			return &RefusedError{Path: path, Reason: HardLinked}
		}
		now, err := fsys.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (now.Dev != first.Dev || now.Ino != first.Ino) {
			return &RefusedError{Path: path, Reason: Raced}
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if !now.Exposed {
			return nil // only root and we can link here
		}
		second, err := f.Stat()
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if provesOnlyName(start, first, second) {
			return nil
		}
		time.Sleep(tick)
	}
	return &RefusedError{Path: path, Reason: Raced}
}

// provesOnlyName judges two looks at a file, both after start, between which its
// name was found to lead to it. A change in between would have set a ctime no
// earlier than start less one step of the clock, so an earlier one tells that
// there was none.
func provesOnlyName(start time.Time, first, second Info) bool {
	return first.Nlink == 1 && second.Nlink == 1 &&
		second.CTime.Equal(first.CTime) && start.Sub(second.CTime) > tick
}
