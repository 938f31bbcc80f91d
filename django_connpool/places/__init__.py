"""Bounds that several pools share, of one process or of all on a host: who may open one more?"""
