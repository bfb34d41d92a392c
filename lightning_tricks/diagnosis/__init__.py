"""Diagnosis: is this training sound, before its first step, while it runs, and when it has died?"""
