"""Measurements that explain themselves: every figure stands beside what the machine could do in the same minute."""
