// One stage of the pipeline: its name, the chooser of its method and one row per parameter, all from the engine's registry. Methods that
// cannot run are listed grey with the reason. A section can have a switch, and rows of its own.
#pragma once

#include "base/method_registry.h"
#include "planning/pipeline_recipe.h"

#include <QComboBox>
#include <QWidget>

#include <functional>
#include <string>
#include <vector>

class QGridLayout;
class QLabel;

namespace espalier
{

class Switch;

// A combo box that may be narrower than its texts, and then says so with an ellipsis. Scrolls only with the keyboard's focus.
class Chooser final : public QComboBox
{
    Q_OBJECT
public:
    explicit Chooser(QWidget* parent = nullptr);
    void fitList();  // the open list is as wide as its texts

protected:
    void paintEvent(QPaintEvent* event) override;
};

// Rows of label, field and unit.
class FieldRows final : public QWidget
{
    Q_OBJECT
public:
    explicit FieldRows(QWidget* parent = nullptr);
    // Takes the field. The label, and the field where it has none yet, get the tooltip; `name` is what a screen reader says.
    void addRow(const QString& label, QWidget* field, const QString& unit, const QString& name, const QString& toolTip);
    void setLabelWidth(int width);
    void setRowVisible(int row, bool visible);
    int rowCount() const { return m_rows; }
    void clear();

private:
    QGridLayout* m_grid = nullptr;
    int m_rows = 0;
    int m_labelWidth = 0;
};

// Scrolls the page instead of the value while the field does not have the keyboard.
void guardWheel(QWidget* field);
// First line bold, at most four in all.
QString methodToolTip(const QString& title, const std::string& help, const std::string& source = {});

class MethodSection final : public QWidget
{
    Q_OBJECT
public:
    // `title` names the stage, `chooser` is the label of its method (empty: the stage has only rows of its own). Without `switchable` the
    // stage is always on.
    MethodSection(const QString& title, bool switchable, QWidget* parent = nullptr, const QString& chooser = tr("method"));

    // What the engine offers for the stage, and why one of them cannot run ({}: it can). A choice that is not offered stays shown.
    void setMethods(const std::vector<MethodInfo>& methods, const std::function<QString(const MethodInfo&)>& whyNot);
    void setChoice(const MethodChoice& choice);  // emits nothing
    MethodChoice choice() const;                 // parameters that differ from the defaults
    void setOn(bool on);                         // emits nothing
    bool isOn() const;
    QString problem() const;  // why the stage cannot run as set; empty: it can
    const MethodInfo* info() const;

    FieldRows* extra() const { return m_extra; }  // below the parameters, in their column or in that of the choosers
    void setExtraAsParameters() { m_labelledAsParameters = true; }
    int labelWidth() const;  // of the widest parameter that can appear
    void setLabelWidths(int choosers, int parameters);

signals:
    void changed();

private:
    void rebuild();
    void refresh();
    QWidget* fieldFor(const ParamSpec& spec);

    QString m_title;
    bool m_hasMethod = true;
    bool m_labelledAsParameters = false;
    std::vector<MethodInfo> m_methods;
    std::vector<QString> m_reasons;  // per method
    std::string m_method;
    Params m_params;
    Switch* m_switch = nullptr;
    Chooser* m_box = nullptr;
    FieldRows* m_head = nullptr;    // the method
    FieldRows* m_fields = nullptr;  // its parameters
    FieldRows* m_extra = nullptr;
    QLabel* m_warning = nullptr;
};

}  // namespace espalier
