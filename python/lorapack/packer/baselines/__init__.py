"""What others do, one file a method: places and slots only, checked like everybody's."""
