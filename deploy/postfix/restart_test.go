package postfix

func oneshot([]string) int { return 0 }
