"""Chaos: a real cluster under random faults, real clients, and a judge of what they saw.

history   what one operation was, when, and how it ended
checker   pure: is this history possible in a world where every operation takes one instant?
clients   registers, lists, sets and watches over Control, recorded
cluster   the demo cluster with disks, clocks and links that can be made to fail
faults    what is done to it, each with its healing
runner    a run: build, break, heal, read everything, judge, print the figures
"""
