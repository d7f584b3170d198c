// Banners under the tool bar: cause in bold, consequence, actions. One per cause with a counter; two at most, more fold into one line.
#pragma once

#include <QElapsedTimer>
#include <QPointer>
#include <QWidget>

#include <functional>
#include <vector>

class QVBoxLayout;

namespace espalier
{

struct BannerAction {
    QString text;
    std::function<void()> run;
    bool filled = false;    // at most the first
    bool dismisses = true;  // the banner goes when it runs
};

struct Banner {
    enum class Kind { Info, Warning, Error };
    QString id;  // the cause: a second one with the same id counts up and replaces the text
    Kind kind = Kind::Warning;
    QString iconName;  // empty: by kind
    QString cause;
    QString consequence;
    std::vector<BannerAction> actions;
    bool ofModel = true;  // goes when another model is opened
    bool once = false;    // the same words again within a moment are one event told twice, and are not counted
};

// Two messages that differ in nothing but numbers have one cause.
QString withoutNumbers(QString text);

class BannerStack final : public QWidget
{
    Q_OBJECT
public:
    explicit BannerStack(QWidget* parent = nullptr);

    // Where the keyboard goes when the strip that has it disappears.
    void setFocusReturn(QWidget* widget) { m_focusReturn = widget; }
    void show(Banner banner);
    void dismiss(const QString& id);
    void dismissAll();
    void dismissOfModel();                                             // what was said about the model that was open
    void dismissOthers(const QStringList& starts, const QString& id);  // all whose id begins so, but this one
    int count() const { return static_cast<int>(m_entries.size()); }
    int repeats(const QString& id) const;  // how often it came; 0: not shown
    QString text() const;                  // all banners as plain text, for the clipboard and tests

signals:
    void dismissed(const QString& id);
    void countChanged(int count);

protected:
    void changeEvent(QEvent* event) override;

private:
    struct Entry {
        Banner banner;
        int repeats = 1;
        QElapsedTimer counted;  // since it was last counted
    };
    void rebuild();

    std::vector<Entry> m_entries;  // newest last
    bool m_unfolded = false;
    QPointer<QWidget> m_focusReturn;
    QVBoxLayout* m_layout = nullptr;
};

}  // namespace espalier
