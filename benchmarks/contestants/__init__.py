"""The engines that benchmarks/compare.py lets compete, each behind one small interface and in a process tree of its own."""
