package atomicfile

import "fmt"

// Reason says why a path is refused. The values are stable; messages are not.
type Reason string

const (
	IsSymlink    Reason = "symlink"                // a symbolic link stands there
	NotRegular   Reason = "not_regular"            // a directory, device, socket or FIFO
	NotDirectory Reason = "not_directory"          // a directory was expected
	HardLinked   Reason = "hard_link"              // the file has further names
	TooLarge     Reason = "too_large"              // longer than the reader's limit
	Raced        Reason = "raced"                  // somebody swapped the name while we worked
	ForeignLink  Reason = "foreign_link"           // a symbolic link of another user on the way
	Foreign      Reason = "foreign"                // others than root and we decide what is in it
	MountPoint   Reason = "mount_point"            // something is mounted on it: rename says EBUSY
	Immutable    Reason = "immutable"              // chattr +i, on it or its directory
	AppendOnly   Reason = "append_only"            // chattr +a, on it or its directory
	ReadOnly     Reason = "read_only"              // the file system is mounted read-only
	NotWritable  Reason = "directory_not_writable" // we may not create a file beside it
	NoSpace      Reason = "no_space"               // fewer free bytes than needed
	NoInodes     Reason = "no_inodes"              // the file system can't hold one more file
	NoDirectory  Reason = "no_directory"           // the directory does not exist
)

var reasonText = map[Reason]string{
	IsSymlink:    "is a symbolic link",
	NotRegular:   "is not a regular file",
	NotDirectory: "is not a directory",
	HardLinked:   "has further hard links",
	TooLarge:     "is too large",
	Raced:        "was exchanged by another program while it was being used",
	ForeignLink:  "is reached through another user's symbolic link",
	Foreign:      "can be changed by other users",
	MountPoint:   "is a mount point and can't be replaced",
	Immutable:    "can't be replaced: immutable (chattr +i)",
	AppendOnly:   "can't be replaced: append-only (chattr +a)",
	ReadOnly:     "can't be replaced: the file system is read-only",
	NotWritable:  "can't be replaced: its directory is not writable",
	NoSpace:      "can't be replaced: not enough free space",
	NoInodes:     "can't be replaced: no free inode",
	NoDirectory:  "can't be written: its directory does not exist",
}

// RefusedError says that a path is left alone, and why. Reading, writing and
// [Replaceable] return it.
type RefusedError struct {
	Path   string
	Reason Reason
	Detail string // facts behind it, such as sizes in bytes; may be empty
	Err    error  // the system's own error; may be nil
}

func (e *RefusedError) Error() string {
	s := e.Path + " " + reasonText[e.Reason]
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	if e.Err != nil {
		s += fmt.Sprintf(": %v", e.Err)
	}
	return s
}

func (e *RefusedError) Unwrap() error { return e.Err }
