espalier_test(test_tokenizer SOURCES core/test_tokenizer.cpp core/test_windows.cpp LIBS espalier::tokenizer espalier::checkpoint LABELS tokenizer)
