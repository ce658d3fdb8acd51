"""Offline data: readers of datasets on a user's disk, windows for training, and collecting datasets.

Nothing here needs h5py or minari before a file is opened.
"""
