package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestIDsHaveRemedies compares the ids that the product's source can give to a
// problem with the table of remedies, in both directions. An id that the
// source computes in a way this test cannot follow is an error too: a person
// who greps for an id must find it.
func TestIDsHaveRemedies(t *testing.T) {
	found := idsInSource(t)
	if len(found) < 80 {
		t.Fatalf("only %d ids found in the source", len(found))
	}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if _, ok := remedies[id]; !ok {
			t.Errorf("%s: the id %q has no remedy", found[id], id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(remedies)) {
		if _, ok := found[id]; !ok {
			t.Errorf("remedies has %q, which nothing reports", id)
		}
		if remedies[id] == "" && id != "failed" {
			t.Errorf("the remedy of %q is empty", id)
		}
	}
}

// idsInSource maps each id to a place where it is written.
func idsInSource(t *testing.T) map[string]token.Position {
	t.Helper()
	fset := token.NewFileSet()
	found := map[string]token.Position{}
	for dir, files := range productFiles(t, fset) {
		f := &finder{fset: fset, files: files, found: found, sinks: map[sink]bool{}}
		f.run(dir)
		for _, problem := range f.unclear {
			t.Error(problem)
		}
	}
	return found
}

// productFiles parses all Go files of the product, by directory: neither tests
// nor packages that only tests import.
func productFiles(t *testing.T, fset *token.FileSet) map[string][]*ast.File {
	t.Helper()
	out := map[string][]*ast.File{}
	root := filepath.Join("..", "..")
	for _, top := range []string{"cmd", "acme", "deploy", "verify"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if d.IsDir() && slices.Contains([]string{"testdata", "certtest", "smtptest", "acmetest", "postfixtest", "crashfs"}, d.Name()) {
				return fs.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			file, err := parser.ParseFile(fset, path, nil, 0)
			out[filepath.Dir(path)] = append(out[filepath.Dir(path)], file)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// sink is a function whose argument number arg becomes an id. A function
// literal is known by the variable it is assigned to, inside one declaration; a
// method's name begins with a dot.
type sink struct {
	name string
	in   *ast.FuncDecl // nil: the whole package
	arg  int
}

// finder follows string constants into the ids of one package.
type finder struct {
	fset    *token.FileSet
	files   []*ast.File
	found   map[string]token.Position
	sinks   map[sink]bool // done or waiting
	wait    []sink
	unclear []string
}

func (f *finder) run(dir string) {
	f.add(sink{name: "problem.New"})
	f.add(sink{name: "problem.Warn"})
	if filepath.Base(dir) == "problem" {
		return // the functions themselves
	}
	for len(f.wait) > 0 {
		s := f.wait[0]
		f.wait = f.wait[1:]
		for _, file := range f.files {
			for _, d := range file.Decls {
				decl, _ := d.(*ast.FuncDecl)
				if s.in == nil || s.in == decl {
					f.calls(s, d, decl)
				}
			}
		}
	}
}

func (f *finder) add(s sink) {
	if !f.sinks[s] {
		f.sinks[s] = true
		f.wait = append(f.wait, s)
	}
}

// calls resolves the id of every call of s below n.
func (f *finder) calls(s sink, n ast.Node, decl *ast.FuncDecl) {
	ast.Inspect(n, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) <= s.arg {
			return true
		}
		name := exprName(call.Fun)
		if name == s.name || s.name[0] == '.' && strings.HasSuffix(name, s.name) {
			f.resolve(call.Args[s.arg], decl)
		}
		return true
	})
}

// exprName is f or x.f; "" for anything else.
func exprName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			return x.Name + "." + e.Sel.Name
		}
		return "?." + e.Sel.Name
	}
	return ""
}

// resolve notes the constants that e can be.
func (f *finder) resolve(e ast.Expr, decl *ast.FuncDecl) {
	switch e := e.(type) {
	case *ast.BasicLit:
		f.note(e)
	case *ast.Ident:
		f.variable(e, decl)
	case *ast.SelectorExpr:
		f.field(e)
	case *ast.CallExpr:
		f.returns(e, 0)
	default:
		f.lost(e)
	}
}

func (f *finder) note(lit *ast.BasicLit) {
	if id, err := strconv.Unquote(lit.Value); err == nil && id != "" {
		f.found[id] = f.fset.Position(lit.Pos())
	}
}

func (f *finder) lost(n ast.Node) {
	f.unclear = append(f.unclear, fmt.Sprintf("%s: cannot tell which id this is; write it as a string", f.fset.Position(n.Pos())))
}

// variable is a parameter, so that the function around it takes ids, or a local
// variable, whose assignments are followed.
func (f *finder) variable(e *ast.Ident, decl *ast.FuncDecl) {
	if decl == nil {
		f.lost(e)
		return
	}
	if lit, name := literalAround(decl, e); lit != nil {
		if i := parameter(lit.Type, e.Name); i >= 0 && name != "" {
			f.add(sink{name, decl, i})
			return
		}
	}
	if i := parameter(decl.Type, e.Name); i >= 0 {
		name := decl.Name.Name
		if decl.Recv != nil {
			name = "." + name
		}
		f.add(sink{name, nil, i})
		return
	}
	known := false
	ast.Inspect(decl, func(n ast.Node) bool {
		a, ok := n.(*ast.AssignStmt)
		if !ok {
			return true
		}
		for i, left := range a.Lhs {
			switch id, ok := left.(*ast.Ident); {
			case !ok || id.Name != e.Name:
			case len(a.Rhs) == len(a.Lhs):
				known = true
				f.resolve(a.Rhs[i], decl)
			default:
				call, ok := a.Rhs[0].(*ast.CallExpr)
				if known = ok; ok {
					f.returns(call, i)
				}
			}
		}
		return true
	})
	if !known {
		f.lost(e)
	}
}

// literalAround is the innermost function literal of decl that holds n, and the
// variable it is assigned to.
func literalAround(decl *ast.FuncDecl, at ast.Node) (lit *ast.FuncLit, name string) {
	ast.Inspect(decl, func(n ast.Node) bool {
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == 1 && len(a.Rhs) == 1 {
			l, ok := a.Rhs[0].(*ast.FuncLit)
			if ok && l.Pos() <= at.Pos() && at.Pos() < l.End() {
				lit, name = l, exprName(a.Lhs[0])
			}
		}
		return true
	})
	return lit, name
}

// parameter is the position of a parameter, or -1.
func parameter(ft *ast.FuncType, name string) int {
	i := 0
	for _, field := range ft.Params.List {
		for _, n := range field.Names {
			if n.Name == name {
				return i
			}
			i++
		}
	}
	return -1
}

// returns follows result number i of a function of this package.
func (f *finder) returns(call *ast.CallExpr, i int) {
	name := exprName(call.Fun)
	if _, last, ok := strings.Cut(name, "."); ok {
		name = last
	}
	known := false
	for _, file := range f.files {
		for _, d := range file.Decls {
			decl, ok := d.(*ast.FuncDecl)
			if !ok || decl.Name.Name != name {
				continue
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				if r, ok := n.(*ast.ReturnStmt); ok && len(r.Results) > i {
					known = true
					f.resolve(r.Results[i], decl)
				}
				_, literal := n.(*ast.FuncLit)
				return !literal
			})
		}
	}
	if !known {
		f.lost(call)
	}
}

// field follows x.name: the values that composite literals of this package give
// to the field of that name.
func (f *finder) field(e *ast.SelectorExpr) {
	known := false
	for _, file := range f.files {
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if st := f.structOf(lit.Type); st != nil {
				known = f.fieldOf(lit, st, e.Sel.Name) || known
			}
			if st := f.structOf(elementOf(lit.Type)); st != nil {
				for _, el := range lit.Elts {
					if kv, ok := el.(*ast.KeyValueExpr); ok {
						el = kv.Value
					}
					if inner, ok := el.(*ast.CompositeLit); ok && inner.Type == nil {
						known = f.fieldOf(inner, st, e.Sel.Name) || known
					}
				}
			}
			return true
		})
	}
	if !known {
		f.lost(e)
	}
}

func elementOf(t ast.Expr) ast.Expr {
	switch t := t.(type) {
	case *ast.ArrayType:
		return t.Elt
	case *ast.MapType:
		return t.Value
	}
	return nil
}

// structOf is the struct type that an expression names in this package.
func (f *finder) structOf(e ast.Expr) *ast.StructType {
	switch e := e.(type) {
	case *ast.StructType:
		return e
	case *ast.Ident:
		for _, file := range f.files {
			if o := file.Scope.Lookup(e.Name); o != nil {
				if spec, ok := o.Decl.(*ast.TypeSpec); ok {
					return f.structOf(spec.Type)
				}
			}
		}
	}
	return nil
}

// fieldOf resolves one field of a literal, by its name or its position.
func (f *finder) fieldOf(lit *ast.CompositeLit, st *ast.StructType, name string) bool {
	at := parameter(&ast.FuncType{Params: st.Fields}, name)
	if at < 0 {
		return false
	}
	for i, el := range lit.Elts {
		kv, keyed := el.(*ast.KeyValueExpr)
		switch {
		case keyed && exprName(kv.Key) == name:
			f.resolve(kv.Value, nil)
			return true
		case !keyed && i == at:
			f.resolve(el, nil)
			return true
		}
	}
	return false
}
