package config

import (
	"bytes"
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Entry is one value in force and where it came from.
type Entry struct {
	Key    string `json:"key"`   // key path: certificates[0].domains[1]
	Value  string `json:"value"` // as text; YAML's true, false and numbers are written as such
	Origin Origin `json:"origin"`
}

// Entries are all values in force, in the order of postcert.yaml(5).
func (c Config) Entries() []Entry {
	var list []Entry
	root, err := c.node()
	if err != nil {
		return nil
	}
	c.walk(root, "", func(path string, node *yaml.Node) {
		list = append(list, Entry{Key: path, Value: node.Value, Origin: c.origin(path)})
	})
	return list
}

// Show renders the configuration in force as a configuration file, in which a
// comment says of each value where it came from. The file can be read again.
// There is no secret in it: secrets are in files of their own.
func (c Config) Show() ([]byte, error) {
	root, err := c.node()
	if err != nil {
		return nil, err
	}
	c.walk(root, "", func(path string, node *yaml.Node) { node.LineComment = "# " + c.origin(path).String() })
	var out bytes.Buffer
	found := "read"
	if !c.Found {
		found = "not there"
	}
	fmt.Fprintf(&out, "# %s: %s (%s)\n", strconv.Quote(c.File), found, c.origin("config"))
	if c.Instance != "" {
		fmt.Fprintf(&out, "# instance: %s (%s)\n", strconv.Quote(c.Instance), c.origin("instance"))
	}
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("rendering the configuration: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("rendering the configuration: %w", err)
	}
	return out.Bytes(), nil
}

func (c Config) node() (*yaml.Node, error) {
	var root yaml.Node
	if err := root.Encode(c); err != nil {
		return nil, fmt.Errorf("rendering the configuration: %w", err)
	}
	return &root, nil
}

func (c Config) origin(path string) Origin {
	if o, known := c.origins[path]; known {
		return o
	}
	return Origin{Layer: FromDefault}
}

// walk visits every scalar below node.
func (c Config) walk(node *yaml.Node, path string, visit func(string, *yaml.Node)) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			c.walk(node.Content[i+1], join(path, node.Content[i].Value), visit)
		}
	case yaml.SequenceNode:
		for i, item := range node.Content {
			c.walk(item, fmt.Sprintf("%s[%d]", path, i), visit)
		}
	case yaml.ScalarNode:
		visit(path, node)
	}
}
