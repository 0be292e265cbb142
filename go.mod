module postcert

go 1.26.0
