"""A small device that speaks the real adb protocol on loopback, for tests that drive the real adb client.

`phone.VirtualPhone` is where to begin: a folder that stands for the phone's files, scripted answers, and faults.
"""
