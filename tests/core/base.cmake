espalier_test(test_base SOURCES core/test_json.cpp core/test_statistics.cpp core/test_text.cpp core/test_atomic_file.cpp core/test_error.cpp core/test_exception.cpp LIBS espalier::base)
