"""Diagnosis: is this training sound, before its first step, while it runs, and after it has failed?"""
